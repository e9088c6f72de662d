// Rows to unit length.
#include <algorithm>
#include <cmath>

#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/segments.h"

namespace clip {
namespace {

constexpr double kSmallestNorm = 1e-12;

/// Added in F64: neither the squares nor the products of long rows leave the range of F32.
template <class T>
double row_product(const T* a, const T* b, int64_t width) {
  double total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t c = 0; c < width; ++c) {
    total += static_cast<double>(a[c]) * static_cast<double>(b[c]);
  }
  return total;
}

}  // namespace

void CpuBackend::l2_normalize_forward(Tensor& y, Tensor& inverse_norm, const Tensor& x) {
  for_real("l2_normalize", x.dtype(), [&]<class T>(T) {
    const int64_t width = x.width();
    T *out = y.data<T>(), *inverses = optional_data<T>(inverse_norm);
    const T* in = x.data<T>();
    parallel_for(x.rows(), [=](int64_t row) {
      T* y_row = out + row * width;
      const T* x_row = in + row * width;
      const double norm = std::sqrt(row_product(x_row, x_row, width));
      // A NaN must reach y: the comparison is false for it.
      const T inverse = static_cast<T>(1.0 / (norm < kSmallestNorm ? kSmallestNorm : norm));
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) y_row[c] = x_row[c] * inverse;
      if (inverses != nullptr) inverses[row] = inverse;
    });
  });
}

void CpuBackend::l2_normalize_backward(Tensor& dx, const Tensor& dy, const Tensor& y,
                                       const Tensor& inverse_norm, Accumulate to_dx) {
  for_real("l2_normalize", y.dtype(), [&]<class T>(T) {
    const int64_t width = y.width();
    T* out = dx.data<T>();
    const T *dys = dy.data<T>(), *ys = y.data<T>(), *inverses = inverse_norm.data<T>();
    const bool add = to_dx == Accumulate::kYes;
    const T clamped = static_cast<T>(1.0 / kSmallestNorm);
    parallel_for(y.rows(), [=](int64_t row) {
      T* dx_row = out + row * width;
      const T *dy_row = dys + row * width, *y_row = ys + row * width;
      const T inverse = inverses[row];
      // A clamped norm is a constant: the row is only scaled.
      const T along = inverse == clamped ? T(0) : static_cast<T>(row_product(y_row, dy_row, width));
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        const T gradient = inverse * (dy_row[c] - y_row[c] * along);
        dx_row[c] = add ? dx_row[c] + gradient : gradient;
      }
    });
  });
}

}  // namespace clip
