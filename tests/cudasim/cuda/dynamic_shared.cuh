// Shadows cuda/dynamic_shared.cuh in simulator builds: shared memory is a fresh piece of the heap for
// every block, filled with 0xFF (NaN in every float type) and exactly as long as the launch says.
#pragma once

#include <cuda_runtime.h>

namespace cudasim {

void* dynamic_shared_memory();

}  // namespace cudasim

namespace clip {

/// The block's dynamic shared memory, 128-byte aligned; the launch says how much there is.
template <class T>
__device__ T* dynamic_shared() {
  return static_cast<T*>(cudasim::dynamic_shared_memory());
}

}  // namespace clip
