// What turns a 3 x 3 convolution into a product: windows to rows and back, and the weight's axes.
#include "cuda/cuda_backend.h"
#include "cuda/launch_shapes.h"

namespace clip {
namespace {

/// A map [N, height, width, channels], and the grid of its windows.
struct Map {
  int64_t height, width, channels, stride, rows, per_row;
};

Map map_of(const Tensor& x, int64_t stride) {
  const int64_t height = x.size(1), width = x.size(2);
  return {height, width, x.size(3), stride, (height - 1) / stride + 1, (width - 1) / stride + 1};
}

/// One thread for each vector of a pixel of a window.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    im2col_kernel(T* columns, const T* x, Map map, int64_t places) {
  const auto [place, channel, left] = vector_place<T>(map.channels);
  if (place >= places) return;
  const int64_t window = place / 9, tap = place % 9;
  const int64_t image = window / (map.rows * map.per_row);
  const int64_t row = window / map.per_row % map.rows * map.stride + tap / 3 - 1;
  const int64_t column = window % map.per_row * map.stride + tap % 3 - 1;
  float values[kVector<T>] = {};
  if (row >= 0 && row < map.height && column >= 0 && column < map.width)
    load_vector(values,
                x + ((image * map.height + row) * map.width + column) * map.channels + channel,
                left);
  store_vector(columns + place * map.channels + channel, values, left);
}

/// One thread for each vector of a pixel: it adds the windows that hold the pixel in their order.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    col2im_kernel(T* dx, const T* dcolumns, Map map, bool add, int64_t pixels) {
  const auto [pixel, channel, left] = vector_place<T>(map.channels);
  if (pixel >= pixels) return;
  const int64_t x = pixel % map.width, y = pixel / map.width % map.height;
  const int64_t image = pixel / (map.width * map.height);
  float sums[kVector<T>] = {};
  for (int tap = 0; tap < 9; ++tap) {
    const int64_t centre_y = y + 1 - tap / 3, centre_x = x + 1 - tap % 3;
    if (centre_y < 0 || centre_x < 0 || centre_y % map.stride != 0 || centre_x % map.stride != 0)
      continue;
    const int64_t row = centre_y / map.stride, column = centre_x / map.stride;
    if (row >= map.rows || column >= map.per_row) continue;
    const int64_t window = (image * map.rows + row) * map.per_row + column;
    float values[kVector<T>];
    load_vector(values, dcolumns + (window * 9 + tap) * map.channels + channel, left);
    for (int i = 0; i < kVector<T>; ++i) sums[i] += values[i];
  }
  put_vector(dx + pixel * map.channels + channel, sums, left, add);
}

/// One thread for each number of y [A, columns, rows]; x [A, rows, columns] is a weight, which is
/// small.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    transpose_matrices_kernel(T* y, const T* x, int64_t rows, int64_t columns, bool add,
                              int64_t count) {
  const int64_t i = grid_thread();
  if (i >= count) return;
  const int64_t row = i % rows, column = i / rows % columns, matrix = i / (rows * columns);
  put(y[i], to_float(x[(matrix * rows + row) * columns + column]), add);
}

}  // namespace

void CudaBackend::im2col(Tensor& columns, const Tensor& x, int64_t stride) {
  if (columns.numel() == 0) return;
  const Map map = map_of(x, stride);
  const int64_t places = x.size(0) * map.rows * map.per_row * 9;
  for_cuda_float("im2col", x.dtype(), [&]<class T>(T) {
    launch("im2col", im2col_kernel<T>, thread_per_vector<T>(places, map.channels), compute_stream(),
           columns.data<T>(), x.data<T>(), map, places);
  });
}

void CudaBackend::col2im(Tensor& dx, const Tensor& dcolumns, int64_t stride, Accumulate to_dx) {
  if (dx.numel() == 0) return;
  for_cuda_float("col2im", dx.dtype(), [&]<class T>(T) {
    launch("col2im", col2im_kernel<T>, thread_per_vector<T>(dx.rows(), dx.width()),
           compute_stream(), dx.data<T>(), dcolumns.data<T>(), map_of(dx, stride),
           to_dx == Accumulate::kYes, dx.rows());
  });
}

void CudaBackend::transpose_matrices(Tensor& y, const Tensor& x, Accumulate to_y) {
  if (x.numel() == 0) return;
  for_cuda_float("transpose_matrices", x.dtype(), [&]<class T>(T) {
    launch("transpose_matrices", transpose_matrices_kernel<T>, thread_per_item(x.numel()),
           compute_stream(), y.data<T>(), x.data<T>(), x.size(1), x.size(2),
           to_y == Accumulate::kYes, x.numel());
  });
}

}  // namespace clip
