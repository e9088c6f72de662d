// What turns a 3 x 3 convolution into a product: windows to rows and back, and the weight's axes.
#include <algorithm>
#include <vector>

#include "engine/cpu/bfloat16.h"
#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/segments.h"

namespace clip {
namespace {

constexpr int64_t kWindow = 3;

/// Row [9 C] of the window around (y, x) of one image [H, W, C].
template <class T>
void window_row(T* to, const T* image, int64_t y, int64_t x, int64_t height, int64_t width,
                int64_t channels) {
  const int64_t first = x - 1, row_numbers = kWindow * channels;
  const int64_t left = std::max<int64_t>(0, -first), right = std::min(kWindow, width - first);
  for (int64_t row = y - 1; row <= y + 1; ++row, to += row_numbers) {
    if (row < 0 || row >= height) {
      std::fill(to, to + row_numbers, T{});
      continue;
    }
    std::fill(to, to + left * channels, T{});
    const T* from = image + (row * width + first) * channels;
    std::copy(from + left * channels, from + right * channels, to + left * channels);
    std::fill(to + right * channels, to + row_numbers, T{});
  }
}

/// Calls body(window, tap) for each window of one axis that holds position `at`, where tap 0 ... 2 is
/// its place there.
template <class Body>
void for_windows_of(int64_t at, int64_t windows, int64_t stride, const Body& body) {
  for (int64_t tap = 0; tap < kWindow; ++tap) {
    const int64_t centre = at + 1 - tap;
    if (centre >= 0 && centre % stride == 0 && centre / stride < windows)
      body(centre / stride, tap);
  }
}

}  // namespace

void CpuBackend::im2col(Tensor& columns, const Tensor& x, int64_t stride) {
  for_float("im2col", x.dtype(), [&]<class T>(T) {
    const int64_t height = x.size(1), width = x.size(2), channels = x.size(3);
    const int64_t rows = (height - 1) / stride + 1, per_row = (width - 1) / stride + 1;
    T* out = columns.data<T>();
    const T* in = x.data<T>();
    parallel_for(x.size(0) * rows, [=](int64_t task) {
      const int64_t image = task / rows, y = task % rows;
      for (int64_t i = 0; i < per_row; ++i)
        window_row(out + (task * per_row + i) * kWindow * kWindow * channels,
                   in + image * height * width * channels, y * stride, i * stride, height, width,
                   channels);
    });
  });
}

void CpuBackend::col2im(Tensor& dx, const Tensor& dcolumns, int64_t stride, Accumulate to_dx) {
  for_float("col2im", dx.dtype(), [&]<class T>(T) {
    const int64_t height = dx.size(1), width = dx.size(2), channels = dx.size(3);
    const int64_t rows = (height - 1) / stride + 1, per_row = (width - 1) / stride + 1;
    T* out = dx.data<T>();
    const T* in = dcolumns.data<T>();
    using Sum = Real<T>;
    parallel_for(dx.size(0) * height, [=](int64_t task) {
      const int64_t image = task / height, y = task % height;
      std::vector<Sum> sums(static_cast<size_t>(channels));
      for (int64_t x = 0; x < width; ++x) {
        T* to = out + (task * width + x) * channels;
        Sum* const sum = sums.data();
        for (int64_t c = 0; c < channels; ++c)
          sum[c] = to_dx == Accumulate::kYes ? to_real(to[c]) : Sum(0);
        for_windows_of(y, rows, stride, [&](int64_t row, int64_t tap_y) {
          for_windows_of(x, per_row, stride, [&](int64_t column, int64_t tap_x) {
            const int64_t window = (image * rows + row) * per_row + column;
            const T* from = in + (window * kWindow * kWindow + tap_y * kWindow + tap_x) * channels;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) sum[c] += to_real(from[c]);
          });
        });
        for (int64_t c = 0; c < channels; ++c) assign(to[c], sum[c]);
      }
    });
  });
}

void CpuBackend::transpose_matrices(Tensor& y, const Tensor& x, Accumulate to_y) {
  for_float("transpose_matrices", x.dtype(), [&]<class T>(T) {
    const int64_t rows = x.size(1), columns = x.size(2), numbers = rows * columns;
    T* out = y.data<T>();
    const T* in = x.data<T>();
    const bool add = to_y == Accumulate::kYes;
    // Strips of rows of y, in pieces that stay in the first-level cache.
    constexpr int64_t kStrip = 16, kPiece = 128;
    const int64_t strips = (columns + kStrip - 1) / kStrip;
    parallel_for(x.size(0) * strips, [=](int64_t task) {
      T* const to = out + task / strips * numbers;
      const T* const from = in + task / strips * numbers;
      const int64_t first = task % strips * kStrip, last = std::min(columns, first + kStrip);
      for (int64_t piece = 0; piece < rows; piece += kPiece)
        for (int64_t i = first; i < last; ++i)
          for (int64_t j = piece; j < std::min(rows, piece + kPiece); ++j)
            assign(to[i * rows + j],
                   to_real(from[j * columns + i]) + (add ? to_real(to[i * rows + j]) : 0));
    });
  });
}

}  // namespace clip
