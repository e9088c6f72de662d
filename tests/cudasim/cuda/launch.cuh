// Shadows cuda/launch.cuh in simulator builds: a launch becomes an operation of a simulated stream.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda/check.h"

namespace cudasim {

struct Launch {
  const char* name;  ///< the kernel's
  const char* file;  ///< where it is launched
  int line;
  const void* kernel;
  dim3 grid;
  dim3 block;
  int64_t shared_bytes;
  std::function<void()> body;  ///< one thread
};

/// What cudaGetLastError says after the launch. A fault in the kernel ends the process when it runs.
cudaError_t enqueue(Launch launch, cudaStream_t stream);
/// A fault unless a pointer argument is null or inside memory of the device.
void check_pointer_argument(const Launch& launch, int index, const void* pointer);

/// The kernel's name with the place of the launch.
struct KernelName {
  KernelName(const char* kernel_name, const char* launch_file = __builtin_FILE(),
             int launch_line = __builtin_LINE())
      : text(kernel_name), file(launch_file), line(launch_line) {}
  const char* text;
  const char* file;
  int line;
};

template <class T>
void check_argument(const Launch& launch, int index, const T& argument) {
  if constexpr (std::is_pointer_v<T>) check_pointer_argument(launch, index, argument);
}

}  // namespace cudasim

namespace clip {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  int64_t shared_bytes = 0;  ///< dynamic shared memory; above 48 KB it is asked for first
};

/// Starts kernel(arguments...) on a stream; the arguments are converted to the kernel's parameter types.
/// throws clip::Error that names the kernel if the launch fails; with CLIP_CUDA_SYNC=1 it runs at
/// once (wait_if_asked)
template <class... Parameters, class... Arguments>
void launch(const cudasim::KernelName& name, void (*kernel)(Parameters...),
            const LaunchShape& shape, cudaStream_t stream, Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments),
                "one argument for each kernel parameter");
  if (shape.shared_bytes > 48 * 1024)
    check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shape.shared_bytes)),
               name.text);
  std::tuple<std::remove_cv_t<Parameters>...> values(
      static_cast<Parameters>(std::forward<Arguments>(arguments))...);
  cudasim::Launch operation{
      name.text,  name.file,   name.line,          reinterpret_cast<const void*>(kernel),
      shape.grid, shape.block, shape.shared_bytes, {}};
  std::apply(
      [&](const auto&... value) {
        int index = 0;
        (cudasim::check_argument(operation, index++, value), ...);
      },
      values);
  operation.body = [kernel, values] { std::apply(kernel, values); };
  check_cuda(cudasim::enqueue(std::move(operation), stream), name.text);
  wait_if_asked(stream, name.text);
}

}  // namespace clip
