// The one place where kernels are launched. tests/cudasim shadows this file through the include path.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "cuda/check.h"

namespace clip {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  int64_t shared_bytes = 0;  ///< dynamic shared memory; above 48 KB it is asked for first
};

/// Starts kernel(arguments...) on a stream; the arguments are converted to the kernel's parameter types.
/// throws clip::Error that names the kernel if the launch fails, with CLIP_CUDA_SYNC=1 also if the
/// kernel does (wait_if_asked)
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
            cudaStream_t stream, Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments),
                "one argument for each kernel parameter");
  if (shape.shared_bytes > 48 * 1024)
    check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shape.shared_bytes)),
               name);
  kernel<<<shape.grid, shape.block, static_cast<size_t>(shape.shared_bytes), stream>>>(
      static_cast<Parameters>(std::forward<Arguments>(arguments))...);
  check_cuda(cudaGetLastError(), name);
  wait_if_asked(stream, name);
}

}  // namespace clip
