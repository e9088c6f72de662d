// Layer norm, alone and fused with the residual sum before it: one row kernel each way serves both.
// A row stays in the first-level cache between its passes, so memory is read and written once.
#include <cmath>

#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/segments.h"

namespace clip {
namespace {

/// sum [C] = residual + x + x_bias (absent: 0); returns the total of the row.
template <class T>
T add_row(T* sum, const T* residual, const T* x, const T* x_bias, int64_t width) {
  T total = 0;
  if (x_bias == nullptr) {
#pragma omp simd reduction(+ : total)
    for (int64_t c = 0; c < width; ++c) {
      const T value = residual[c] + x[c];
      sum[c] = value;
      total += value;
    }
    return total;
  }
#pragma omp simd reduction(+ : total)
  for (int64_t c = 0; c < width; ++c) {
    const T value = residual[c] + (x[c] + x_bias[c]);
    sum[c] = value;
    total += value;
  }
  return total;
}

template <class T>
T row_total(const T* x, int64_t width) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t c = 0; c < width; ++c) total += x[c];
  return total;
}

template <class T>
T squared_deviations(const T* x, T mean, int64_t width) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t c = 0; c < width; ++c) total += (x[c] - mean) * (x[c] - mean);
  return total;
}

/// y = (x - mean) rstd weight + bias; y may be x. `total` is the sum of x.
template <class T>
void normalize_row(T* y, T& mean, T& rstd, const T* x, T total, const T* weight, const T* bias,
                   double eps, int64_t width) {
  const T row_mean = total / static_cast<T>(width);
  const T variance = squared_deviations(x, row_mean, width) / static_cast<T>(width);
  const T row_rstd = T(1) / std::sqrt(variance + static_cast<T>(eps));
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) y[c] = (x[c] - row_mean) * row_rstd * weight[c] + bias[c];
  mean = row_mean;
  rstd = row_rstd;
}

/// What the two forward kernels share. residual absent: plain layer norm of x.
template <class T>
void forward(Tensor& sum, Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& residual,
             const Tensor& x, const Tensor& x_bias, const Tensor& weight, const Tensor& bias,
             double eps) {
  const int64_t width = x.width();
  T *s = optional_data<T>(sum), *out = y.data<T>(), *means = optional_data<T>(mean),
    *rstds = optional_data<T>(rstd);
  const T *r = optional_data<T>(residual), *in = x.data<T>(), *b = optional_data<T>(x_bias),
          *gain = weight.data<T>(), *shift = bias.data<T>();
  parallel_for(x.rows(), [=](int64_t row) {
    const int64_t at = row * width;
    T row_mean, row_rstd;
    if (r == nullptr) {
      normalize_row(out + at, row_mean, row_rstd, in + at, row_total(in + at, width), gain, shift,
                    eps, width);
    } else {
      // Where the sum is not wanted, y holds it until it is normalised in place.
      T* sum_row = (s == nullptr ? out : s) + at;
      const T total = add_row(sum_row, r + at, in + at, b, width);
      normalize_row(out + at, row_mean, row_rstd, sum_row, total, gain, shift, eps, width);
    }
    if (means != nullptr) means[row] = row_mean;
    if (rstds != nullptr) rstds[row] = row_rstd;
  });
}

/// Column sums of one segment, side by side in its partial [3, C].
template <class T>
struct ColumnSums {
  T* dweight;
  T* dbias;
  T* dx;
};

/// The means over a row of g and of g x^, where g = dy weight and x^ = (x - mean) rstd.
template <class T>
struct RowMeans {
  T g;
  T g_xhat;
};

/// Adds a row's dy x^ and dy to the column sums; returns the two means its dx needs.
template <class T>
RowMeans<T> add_parameter_gradients(const ColumnSums<T>& sums, const T* dy, const T* x, T mean,
                                    T rstd, const T* weight, int64_t width) {
  T g_total = 0, g_xhat_total = 0;
  T *dweight = sums.dweight, *dbias = sums.dbias;
#pragma omp simd reduction(+ : g_total, g_xhat_total)
  for (int64_t c = 0; c < width; ++c) {
    const T xhat = (x[c] - mean) * rstd, g = dy[c] * weight[c];
    g_total += g;
    g_xhat_total += g * xhat;
    dweight[c] += dy[c] * xhat;
    dbias[c] += dy[c];
  }
  return {g_total / static_cast<T>(width), g_xhat_total / static_cast<T>(width)};
}

/// dx = base (absent: 0) + rstd (g - mean(g) - x^ mean(g x^)), added to its column sums as well.
/// base may be dx.
template <class T, bool kHasBase>
void input_gradient(T* dx, T* dx_sums, const T* base, const T* dy, const T* x, T mean, T rstd,
                    const T* weight, RowMeans<T> means, int64_t width) {
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) {
    const T xhat = (x[c] - mean) * rstd;
    T gradient = rstd * (dy[c] * weight[c] - means.g - xhat * means.g_xhat);
    if constexpr (kHasBase) gradient += base[c];
    dx[c] = gradient;
    dx_sums[c] += gradient;
  }
}

/// What the two backward kernels share. base [R, C]: what dx starts from, or undefined for zero;
/// sums of dx's columns go to dx_sums.
template <class T>
void backward(Tensor& dx, Tensor& dx_sums, Tensor& dweight, Tensor& dbias, const Tensor& base,
              const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd,
              const Tensor& weight, Accumulate to_dx_sums, Accumulate to_dweight,
              Accumulate to_dbias) {
  const int64_t width = x.width(), rows = x.rows(), segments = segment_count(rows);
  // Per segment: three column sums, and a row for dx where dx itself is not wanted.
  const int64_t stride = 4 * width;
  Tensor partials = Tensor::empty(x.backend(), {segments, stride}, x.dtype());
  T *partial = partials.data<T>(), *out = optional_data<T>(dx);
  const T *start = optional_data<T>(base), *g = dy.data<T>(), *in = x.data<T>(),
          *means = mean.data<T>(), *rstds = rstd.data<T>(), *gain = weight.data<T>();
  const bool wants_dx = dx.defined() || dx_sums.defined();
  for_segments(rows, [=](int64_t segment, int64_t first, int64_t last) {
    T* own = partial + segment * stride;
    std::fill(own, own + 3 * width, T(0));
    const ColumnSums<T> sums{own, own + width, own + 2 * width};
    for (int64_t row = first; row < last; ++row) {
      const int64_t at = row * width;
      const T row_mean = means[row], row_rstd = rstds[row];
      const RowMeans<T> g_means =
          add_parameter_gradients(sums, g + at, in + at, row_mean, row_rstd, gain, width);
      if (!wants_dx) continue;
      T* dx_row = out == nullptr ? own + 3 * width : out + at;
      if (start == nullptr) {
        input_gradient<T, false>(dx_row, sums.dx, nullptr, g + at, in + at, row_mean, row_rstd,
                                 gain, g_means, width);
      } else {
        input_gradient<T, true>(dx_row, sums.dx, start + at, g + at, in + at, row_mean, row_rstd,
                                gain, g_means, width);
      }
    }
  });
  add_segments<T>(dweight, partial, segments, stride, to_dweight);
  add_segments<T>(dbias, partial + width, segments, stride, to_dbias);
  add_segments<T>(dx_sums, partial + 2 * width, segments, stride, to_dx_sums);
}

}  // namespace

void CpuBackend::layer_norm_forward(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x,
                                    const Tensor& weight, const Tensor& bias, double eps) {
  Tensor no_sum;
  for_float("layer_norm", x.dtype(),
            [&]<class T>(T) { forward<T>(no_sum, y, mean, rstd, {}, x, {}, weight, bias, eps); });
}

void CpuBackend::layer_norm_backward(Tensor& dx, Tensor& dweight, Tensor& dbias, const Tensor& dy,
                                     const Tensor& x, const Tensor& mean, const Tensor& rstd,
                                     const Tensor& weight, Accumulate to_dx, Accumulate to_dweight,
                                     Accumulate to_dbias) {
  Tensor no_sums;
  const Tensor base = to_dx == Accumulate::kYes ? dx : Tensor();
  for_float("layer_norm", x.dtype(), [&]<class T>(T) {
    backward<T>(dx, no_sums, dweight, dbias, base, dy, x, mean, rstd, weight, Accumulate::kNo,
                to_dweight, to_dbias);
  });
}

void CpuBackend::bias_residual_layer_norm_forward(Tensor& sum, Tensor& y, Tensor& mean,
                                                  Tensor& rstd, const Tensor& residual,
                                                  const Tensor& x, const Tensor& x_bias,
                                                  const Tensor& weight, const Tensor& bias,
                                                  double eps) {
  for_float("bias_residual_layer_norm", x.dtype(), [&]<class T>(T) {
    forward<T>(sum, y, mean, rstd, residual, x, x_bias, weight, bias, eps);
  });
}

void CpuBackend::bias_residual_layer_norm_backward(Tensor& dtotal, Tensor& dx_bias, Tensor& dweight,
                                                   Tensor& dbias, const Tensor& dsum,
                                                   const Tensor& dy, const Tensor& sum,
                                                   const Tensor& mean, const Tensor& rstd,
                                                   const Tensor& weight, Accumulate to_dx_bias,
                                                   Accumulate to_dweight, Accumulate to_dbias) {
  for_float("bias_residual_layer_norm", sum.dtype(), [&]<class T>(T) {
    backward<T>(dtotal, dx_bias, dweight, dbias, dsum, dy, sum, mean, rstd, weight, to_dx_bias,
                to_dweight, to_dbias);
  });
}

}  // namespace clip
