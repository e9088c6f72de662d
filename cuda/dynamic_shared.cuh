// Dynamic shared memory, the only kind that kernels use. tests/cudasim shadows this file through the include path.
#pragma once

#include <cuda_runtime.h>

namespace clip {

/// The block's dynamic shared memory, 128-byte aligned; the launch says how much there is.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  return reinterpret_cast<T*>(shared_bytes);
}

}  // namespace clip
