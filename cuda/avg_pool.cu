// Means of windows, and the mean of an image as a token of its own.
#include "cuda/column_sums.cuh"
#include "cuda/cuda_backend.h"

namespace clip {
namespace {

/// Windows of a map, and the width of the map [N, H, width, channels] of their means.
struct Windows {
  int64_t rows, columns, width, channels;
};

Windows windows_of(const Tensor& map, const Tensor& means) {
  return {map.size(1) / means.size(1), map.size(2) / means.size(2), means.size(2), means.size(3)};
}

/// One thread for each vector of a pixel of y.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    avg_pool_forward_kernel(T* y, const T* x, Windows w, int64_t pixels) {
  const auto [pixel, channel, left] = vector_place<T>(w.channels);
  if (pixel >= pixels) return;
  const int64_t row = pixel / w.width, column = pixel % w.width;
  const int64_t per_row = w.width * w.columns * w.channels;
  const T* from = x + row * w.rows * per_row + column * w.columns * w.channels + channel;
  float sums[kVector<T>] = {};
  for (int64_t i = 0; i < w.rows; ++i) {
    for (int64_t j = 0; j < w.columns; ++j) {
      float values[kVector<T>];
      load_vector(values, from + i * per_row + j * w.channels, left);
      for (int k = 0; k < kVector<T>; ++k) sums[k] += values[k];
    }
  }
  const float share = 1.0f / static_cast<float>(w.rows * w.columns);
  for (int j = 0; j < kVector<T>; ++j) sums[j] *= share;
  store_vector(y + pixel * w.channels + channel, sums, left);
}

/// One thread for each vector of a pixel of dx.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    avg_pool_backward_kernel(T* dx, const T* dy, Windows w, bool add, int64_t pixels) {
  const auto [pixel, channel, left] = vector_place<T>(w.channels);
  if (pixel >= pixels) return;
  const int64_t per_row = w.width * w.columns;
  const int64_t from = pixel / per_row / w.rows * w.width + pixel % per_row / w.columns;
  const float share = 1.0f / static_cast<float>(w.rows * w.columns);
  float values[kVector<T>];
  load_vector(values, dy + from * w.channels + channel, left);
  for (int i = 0; i < kVector<T>; ++i) values[i] *= share;
  put_vector(dx + pixel * w.channels + channel, values, left, add);
}

/// Tokens of an image, the mean among them.
struct Tokens {
  int64_t count, width;
};

/// One thread for each vector of an image's columns.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    mean_token_forward_kernel(T* y, const T* x, const T* positions, Tokens tokens, int64_t images) {
  const auto [image, column, left] = vector_place<T>(tokens.width);
  if (image >= images) return;
  const int64_t places = tokens.count - 1;
  const T* from = x + image * places * tokens.width + column;
  T* to = y + image * tokens.count * tokens.width + column;
  float sums[kVector<T>] = {}, position[kVector<T>];
  for (int64_t place = 0; place < places; ++place) {
    float values[kVector<T>];
    load_vector(values, from + place * tokens.width, left);
    load_vector(position, positions + (place + 1) * tokens.width + column, left);
    for (int i = 0; i < kVector<T>; ++i) {
      sums[i] += values[i];
      values[i] += position[i];
    }
    store_vector(to + (place + 1) * tokens.width, values, left);
  }
  load_vector(position, positions + column, left);
  const float share = 1.0f / static_cast<float>(places);
  for (int i = 0; i < kVector<T>; ++i) sums[i] = sums[i] * share + position[i];
  store_vector(to, sums, left);
}

/// dx (+)= the token's gradient and its share of the mean's; one thread for each vector of dx.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    mean_token_backward_kernel(T* dx, const T* dy, Tokens tokens, bool add, int64_t rows) {
  const auto [row, column, left] = vector_place<T>(tokens.width);
  if (row >= rows) return;
  const int64_t places = tokens.count - 1;
  const T* mean = dy + row / places * tokens.count * tokens.width + column;
  const float share = 1.0f / static_cast<float>(places);
  float values[kVector<T>], own[kVector<T>];
  load_vector(values, mean, left);
  load_vector(own, mean + (row % places + 1) * tokens.width, left);
  for (int i = 0; i < kVector<T>; ++i) values[i] = values[i] * share + own[i];
  put_vector(dx + row * tokens.width + column, values, left, add);
}

}  // namespace

void CudaBackend::avg_pool_forward(Tensor& y, const Tensor& x) {
  if (y.numel() == 0) return;
  for_cuda_float("avg_pool", x.dtype(), [&]<class T>(T) {
    launch("avg_pool_forward", avg_pool_forward_kernel<T>,
           thread_per_vector<T>(y.rows(), y.width()), compute_stream(), y.data<T>(), x.data<T>(),
           windows_of(x, y), y.rows());
  });
}

void CudaBackend::avg_pool_backward(Tensor& dx, const Tensor& dy, Accumulate to_dx) {
  if (dx.numel() == 0) return;
  for_cuda_float("avg_pool", dx.dtype(), [&]<class T>(T) {
    launch("avg_pool_backward", avg_pool_backward_kernel<T>,
           thread_per_vector<T>(dx.rows(), dx.width()), compute_stream(), dx.data<T>(),
           dy.data<T>(), windows_of(dx, dy), to_dx == Accumulate::kYes, dx.rows());
  });
}

void CudaBackend::mean_token_forward(Tensor& y, const Tensor& x, const Tensor& positions) {
  if (y.numel() == 0) return;
  const Tokens tokens{positions.size(0), y.width()};
  const int64_t images = y.rows() / tokens.count;
  for_cuda_float("mean_token", x.dtype(), [&]<class T>(T) {
    launch("mean_token_forward", mean_token_forward_kernel<T>,
           thread_per_vector<T>(images, tokens.width), compute_stream(), y.data<T>(), x.data<T>(),
           positions.data<T>(), tokens, images);
  });
}

void CudaBackend::mean_token_backward(Tensor& dx, Tensor& dpositions, const Tensor& dy,
                                      Accumulate to_dx, Accumulate to_dpositions) {
  const int64_t width = dy.width(), rows = dy.rows();
  const int64_t images = dx ? rows - dx.rows() : rows / dpositions.size(0);
  if (images == 0) return;
  const int64_t count = rows / images;
  const cudaStream_t stream = compute_stream();
  if (dx) {
    for_cuda_float("mean_token", dy.dtype(), [&]<class T>(T) {
      launch("mean_token_backward", mean_token_backward_kernel<T>,
             thread_per_vector<T>(dx.rows(), width), stream, dx.data<T>(), dy.data<T>(),
             Tokens{count, width}, to_dx == Accumulate::kYes, dx.rows());
    });
  }
  if (!dpositions) return;
  // An image's tokens are one long row: sums over images are column sums.
  const Tensor partials = partial_column_sums(stream, dy, images, count * width, count * width);
  add_segments(stream, {{dpositions, to_dpositions}}, partials, count * width);
}

}  // namespace clip
