// Layer norm, alone and fused with the residual sum before it: one row kernel each way serves both.
// A row stays in the first-level cache between its passes, so memory is read and written once.
#include <cmath>

#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/segments.h"
#include "engine/cpu/tile_product.h"

namespace clip {
namespace {

/// sum [C] = residual + x + x_bias (absent: 0); returns the total of the row as it is stored.
template <class T>
Real<T> add_row(T* sum, const T* residual, const T* x, const T* x_bias, int64_t width) {
  Real<T> total = 0;
  if (x_bias == nullptr) {
#pragma omp simd reduction(+ : total) simdlen(kLanes <Real <T>>)
    for (int64_t c = 0; c < width; ++c) {
      assign(sum[c], to_real(residual[c]) + to_real(x[c]));
      total += to_real(sum[c]);
    }
    return total;
  }
#pragma omp simd reduction(+ : total) simdlen(kLanes <Real <T>>)
  for (int64_t c = 0; c < width; ++c) {
    assign(sum[c], to_real(residual[c]) + (to_real(x[c]) + to_real(x_bias[c])));
    total += to_real(sum[c]);
  }
  return total;
}

template <class T>
Real<T> row_total(const T* x, int64_t width) {
  Real<T> total = 0;
#pragma omp simd reduction(+ : total) simdlen(kLanes <Real <T>>)
  for (int64_t c = 0; c < width; ++c) total += to_real(x[c]);
  return total;
}

template <class T>
Real<T> squared_deviations(const T* x, Real<T> mean, int64_t width) {
  Real<T> total = 0;
#pragma omp simd reduction(+ : total) simdlen(kLanes <Real <T>>)
  for (int64_t c = 0; c < width; ++c) {
    const Real<T> deviation = to_real(x[c]) - mean;
    total += deviation * deviation;
  }
  return total;
}

/// y = (x - mean) rstd weight + bias; y may be x. `total` is the sum of x.
template <class T>
void normalize_row(T* y, Real<T>& mean, Real<T>& rstd, const T* x, Real<T> total, const T* weight,
                   const T* bias, double eps, int64_t width) {
  using R = Real<T>;
  const R row_mean = total / static_cast<R>(width);
  const R variance = squared_deviations(x, row_mean, width) / static_cast<R>(width);
  const R row_rstd = R(1) / std::sqrt(variance + static_cast<R>(eps));
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) {
    assign(y[c], (to_real(x[c]) - row_mean) * row_rstd * to_real(weight[c]) + to_real(bias[c]));
  }
  mean = row_mean;
  rstd = row_rstd;
}

/// What the two forward kernels share. residual absent: plain layer norm of x.
template <class T>
void forward(Tensor& sum, Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& residual,
             const Tensor& x, const Tensor& x_bias, const Tensor& weight, const Tensor& bias,
             double eps) {
  const int64_t width = x.width();
  T *s = optional_data<T>(sum), *out = y.data<T>();
  Real<T>*means = optional_data<Real<T>>(mean), *rstds = optional_data<Real<T>>(rstd);
  const T *r = optional_data<T>(residual), *in = x.data<T>(), *b = optional_data<T>(x_bias),
          *gain = weight.data<T>(), *shift = bias.data<T>();
  parallel_for(x.rows(), [=](int64_t row) {
    const int64_t at = row * width;
    Real<T> row_mean, row_rstd;
    if (r == nullptr) {
      normalize_row(out + at, row_mean, row_rstd, in + at, row_total(in + at, width), gain, shift,
                    eps, width);
    } else {
      // Where the sum is not wanted, y holds it until it is normalised in place.
      T* sum_row = (s == nullptr ? out : s) + at;
      const Real<T> total = add_row(sum_row, r + at, in + at, b, width);
      normalize_row(out + at, row_mean, row_rstd, sum_row, total, gain, shift, eps, width);
    }
    if (means != nullptr) means[row] = row_mean;
    if (rstds != nullptr) rstds[row] = row_rstd;
  });
}

/// Column sums of one segment, side by side in its partial [3, C].
template <class R>
struct ColumnSums {
  R* dweight;
  R* dbias;
  R* dx;
};

/// The means over a row of g and of g x^, where g = dy weight and x^ = (x - mean) rstd.
template <class R>
struct RowMeans {
  R g;
  R g_xhat;
};

/// Adds a row's dy x^ and dy to the column sums; returns the two means its dx needs.
template <class T>
RowMeans<Real<T>> add_parameter_gradients(const ColumnSums<Real<T>>& sums, const T* dy, const T* x,
                                          Real<T> mean, Real<T> rstd, const T* weight,
                                          int64_t width) {
  using R = Real<T>;
  R g_total = 0, g_xhat_total = 0;
  R *dweight = sums.dweight, *dbias = sums.dbias;
#pragma omp simd reduction(+ : g_total, g_xhat_total) simdlen(kLanes <Real <T>>)
  for (int64_t c = 0; c < width; ++c) {
    const R xhat = (to_real(x[c]) - mean) * rstd, g = to_real(dy[c]) * to_real(weight[c]);
    g_total += g;
    g_xhat_total += g * xhat;
    dweight[c] += to_real(dy[c]) * xhat;
    dbias[c] += to_real(dy[c]);
  }
  return {g_total / static_cast<R>(width), g_xhat_total / static_cast<R>(width)};
}

/// dx = base (absent: 0) + rstd (g - mean(g) - x^ mean(g x^)), added to its column sums as well.
/// base may be dx.
template <class T, bool kHasBase>
void input_gradient(T* dx, Real<T>* dx_sums, const T* base, const T* dy, const T* x, Real<T> mean,
                    Real<T> rstd, const T* weight, RowMeans<Real<T>> means, int64_t width) {
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) {
    const Real<T> xhat = (to_real(x[c]) - mean) * rstd;
    Real<T> gradient = rstd * (to_real(dy[c]) * to_real(weight[c]) - means.g - xhat * means.g_xhat);
    if constexpr (kHasBase) gradient += to_real(base[c]);
    assign(dx[c], gradient);
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
  using R = Real<T>;
  const int64_t width = x.width(), rows = x.rows(), segments = segment_count(rows);
  const int64_t stride = 3 * width;
  Tensor partials = Tensor::empty(x.backend(), {segments, stride}, sum_dtype(x.dtype()));
  const bool wants_dx = dx.defined() || dx_sums.defined();
  // Where only the sums of dx are wanted, each segment has a row that takes it.
  const int64_t dx_stride = dx ? width : 0;
  Tensor dx_rows = dx || !wants_dx ? dx : Tensor::empty(x.backend(), {segments, width}, x.dtype());
  R* partial = partials.data<R>();
  T* out = optional_data<T>(dx_rows);
  const T *start = optional_data<T>(base), *g = dy.data<T>(), *in = x.data<T>(),
          *gain = weight.data<T>();
  const R *means = mean.data<R>(), *rstds = rstd.data<R>();
  for_segments(rows, [=](int64_t segment, int64_t first, int64_t last) {
    R* own = partial + segment * stride;
    std::fill(own, own + stride, R(0));
    const ColumnSums<R> sums{own, own + width, own + 2 * width};
    for (int64_t row = first; row < last; ++row) {
      const int64_t at = row * width;
      const R row_mean = means[row], row_rstd = rstds[row];
      const RowMeans<R> g_means =
          add_parameter_gradients(sums, g + at, in + at, row_mean, row_rstd, gain, width);
      if (!wants_dx) continue;
      T* dx_row = out + (dx_stride == 0 ? segment * width : at);
      if (start == nullptr) {
        input_gradient<T, false>(dx_row, sums.dx, nullptr, g + at, in + at, row_mean, row_rstd,
                                 gain, g_means, width);
      } else {
        input_gradient<T, true>(dx_row, sums.dx, start + at, g + at, in + at, row_mean, row_rstd,
                                gain, g_means, width);
      }
    }
  });
  add_segments<R>(dweight, partial, segments, stride, to_dweight);
  add_segments<R>(dbias, partial + width, segments, stride, to_dbias);
  add_segments<R>(dx_sums, partial + 2 * width, segments, stride, to_dx_sums);
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
