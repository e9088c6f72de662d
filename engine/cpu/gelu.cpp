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
    for (int64_t c = 0; c < width; ++c) y_row[c] = gelu<kind>(x_row[c] + b[c]);
  });
}

/// dx (+)= dy gelu'(x + bias) for one row, added to dbias as well.
template <Gelu kind, bool kAdd, class T>
void backward_row(T* dx, T* dbias, const T* dy, const T* x, const T* bias, int64_t width) {
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) {
    const T gradient = dy[c] * gelu_derivative<kind>(x[c] + bias[c]);
    dx[c] = kAdd ? dx[c] + gradient : gradient;
    dbias[c] += gradient;
  }
}

template <Gelu kind, class T>
void backward(Tensor& dx, Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& bias,
              Accumulate to_dx, Accumulate to_dbias) {
  const int64_t width = x.width(), rows = x.rows(), segments = segment_count(rows);
  // Per segment: the sums for dbias, and a row for dx where dx itself is not wanted.
  const int64_t stride = 2 * width;
  Tensor partials = Tensor::empty(x.backend(), {segments, stride}, x.dtype());
  T *partial = partials.data<T>(), *out = optional_data<T>(dx);
  const T *dys = dy.data<T>(), *in = x.data<T>(), *b = bias.data<T>();
  const bool add = out != nullptr && to_dx == Accumulate::kYes;
  for_segments(rows, [=](int64_t segment, int64_t first, int64_t last) {
    T* sums = partial + segment * stride;
    std::fill(sums, sums + width, T(0));
    for (int64_t row = first; row < last; ++row) {
      const int64_t at = row * width;
      T* dx_row = out == nullptr ? sums + width : out + at;
      if (add) {
        backward_row<kind, true>(dx_row, sums, dys + at, in + at, b, width);
      } else {
        backward_row<kind, false>(dx_row, sums, dys + at, in + at, b, width);
      }
    }
  });
  add_segments<T>(dbias, partial, segments, stride, to_dbias);
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
