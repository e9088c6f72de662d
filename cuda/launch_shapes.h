// How work is cut into blocks: by sizes alone, never by what the device has.
#pragma once

#include "cuda/device_math.cuh"
#include "cuda/launch.cuh"
#include "engine/tensor.h"

namespace clip {

inline int64_t divide_up(int64_t x, int64_t by) { return (x + by - 1) / by; }

inline LaunchShape blocks(int64_t count, int64_t shared_bytes = 0) {
  return {dim3(static_cast<unsigned>(count)), dim3(kWarp, kBlockWarps), shared_bytes};
}

/// One warp for each row; kernels find theirs by warp_row().
inline LaunchShape warp_per_row(int64_t rows) { return blocks(divide_up(rows, kBlockWarps)); }

/// One thread for each item; kernels find theirs by grid_thread().
inline LaunchShape thread_per_item(int64_t items) {
  return blocks(divide_up(items, kBlockThreads));
}

/// One thread for each vector of rows of `width` numbers; kernels find theirs by vector_place<T>().
template <class T>
LaunchShape thread_per_vector(int64_t rows, int64_t width) {
  return thread_per_item(rows * divide_up(width, kVector<T>));
}

/// Address of the first element, or null where the tensor is not wanted or absent.
template <class T>
T* data_or_null(Tensor& tensor) {
  return tensor ? tensor.data<T>() : nullptr;
}
template <class T>
const T* data_or_null(const Tensor& tensor) {
  return tensor ? tensor.data<T>() : nullptr;
}

}  // namespace clip
