// gelu(x + bias). The formulas are in engine/scalar_math.h; here they run over rows.
#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/segments.h"
#include "engine/scalar_math.h"

namespace clip {
namespace {

template <Gelu kind, class T>
void forward(Tensor& y, const Tensor& x, const Tensor& bias) {
  const int64_t width = x.width();
  T* out = y.data<T>();
  const T *in = x.data<T>(), *b = bias.data<T>();
  parallel_for(x.rows(), [=](int64_t row) {
    T* y_row = out + row * width;
    const T* x_row = in + row * width;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) {
      assign(y_row[c], gelu<kind>(to_real(x_row[c]) + to_real(b[c])));
    }
  });
}

/// dx (+)= dy gelu'(x + bias) for one row, added to dbias as well.
template <Gelu kind, bool kAdd, class T>
void backward_row(T* dx, Real<T>* dbias, const T* dy, const T* x, const T* bias, int64_t width) {
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) {
    const Real<T> gradient =
        to_real(dy[c]) * gelu_derivative<kind>(to_real(x[c]) + to_real(bias[c]));
    assign(dx[c], kAdd ? to_real(dx[c]) + gradient : gradient);
    dbias[c] += gradient;
  }
}

template <Gelu kind, class T>
void backward(Tensor& dx, Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& bias,
              Accumulate to_dx, Accumulate to_dbias) {
  const int64_t width = x.width(), rows = x.rows(), segments = segment_count(rows);
  Tensor partials = Tensor::empty(x.backend(), {segments, width}, sum_dtype(x.dtype()));
  // Where dx is not wanted, each segment has a row that takes it.
  const int64_t dx_stride = dx ? width : 0;
  Tensor dx_rows = dx ? dx : Tensor::empty(x.backend(), {segments, width}, x.dtype());
  Real<T>* partial = partials.data<Real<T>>();
  T* out = dx_rows.data<T>();
  const T *dys = dy.data<T>(), *in = x.data<T>(), *b = bias.data<T>();
  const bool add = dx && to_dx == Accumulate::kYes;
  for_segments(rows, [=](int64_t segment, int64_t first, int64_t last) {
    Real<T>* sums = partial + segment * width;
    std::fill(sums, sums + width, Real<T>(0));
    T* dx_row = out + (dx_stride == 0 ? segment * width : first * width);
    for (int64_t at = first * width; at < last * width; at += width, dx_row += dx_stride) {
      if (add) {
        backward_row<kind, true>(dx_row, sums, dys + at, in + at, b, width);
      } else {
        backward_row<kind, false>(dx_row, sums, dys + at, in + at, b, width);
      }
    }
  });
  add_segments<Real<T>>(dbias, partial, segments, width, to_dbias);
}

}  // namespace

void CpuBackend::bias_gelu_forward(Tensor& y, const Tensor& x, const Tensor& bias, Gelu kind) {
  for_float("bias_gelu", x.dtype(), [&]<class T>(T) {
    kind == Gelu::kQuick ? forward<Gelu::kQuick, T>(y, x, bias)
                         : forward<Gelu::kErf, T>(y, x, bias);
  });
}

void CpuBackend::bias_gelu_backward(Tensor& dx, Tensor& dbias, const Tensor& dy, const Tensor& x,
                                    const Tensor& bias, Gelu kind, Accumulate to_dx,
                                    Accumulate to_dbias) {
  for_float("bias_gelu", x.dtype(), [&]<class T>(T) {
    kind == Gelu::kQuick ? backward<Gelu::kQuick, T>(dx, dbias, dy, x, bias, to_dx, to_dbias)
                         : backward<Gelu::kErf, T>(dx, dbias, dy, x, bias, to_dx, to_dbias);
  });
}

}  // namespace clip
