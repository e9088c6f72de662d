// BatchNorm with the ReLU and the residual sum after it. Moments are taken of segments of rows, twice
// over each while it lies in the cache, and joined in order; those of ranks are joined the same way.
#include <cmath>

#include "engine/cpu/bfloat16.h"
#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/segments.h"

namespace clip {
namespace {

template <class T>
using SumOf = decltype(to_real(T{}));

/// moments [2, C] of rows [first, last) of x [R, C].
template <class T>
void segment_moments(SumOf<T>* moments, const T* x, int64_t first, int64_t last, int64_t width) {
  SumOf<T>*mean = moments, *squares = moments + width;
  std::fill(moments, moments + 2 * width, SumOf<T>(0));
  for (int64_t row = first; row < last; ++row) {
    const T* from = x + row * width;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) mean[c] += to_real(from[c]);
  }
  const auto count = static_cast<SumOf<T>>(last - first);
  for (int64_t c = 0; c < width; ++c) mean[c] /= count;
  for (int64_t row = first; row < last; ++row) {
    const T* from = x + row * width;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) {
      const SumOf<T> deviation = to_real(from[c]) - mean[c];
      squares[c] += deviation * deviation;
    }
  }
}

/// Mean and sum of squared deviations of one column.
struct Moments {
  double mean, squares;
};

/// Those of all `rows` rows from those of parts [P, 2, C] of part_rows rows each, the last of fewer.
template <class Sum>
Moments join(const Sum* parts, int64_t rows, int64_t part_rows, int64_t width, int64_t column) {
  const int64_t count = (rows + part_rows - 1) / part_rows;
  const auto rows_of = [=](int64_t part) {
    return static_cast<double>(std::min(part_rows, rows - part * part_rows));
  };
  const auto mean_of = [=](int64_t part) {
    return static_cast<double>(parts[2 * part * width + column]);
  };
  Moments all = {0, 0};
  for (int64_t part = 0; part < count; ++part) all.mean += rows_of(part) * mean_of(part);
  all.mean /= static_cast<double>(rows);
  for (int64_t part = 0; part < count; ++part) {
    const double deviation = mean_of(part) - all.mean;
    all.squares += static_cast<double>(parts[(2 * part + 1) * width + column]) +
                   rows_of(part) * deviation * deviation;
  }
  return all;
}

/// One row forward; residual and bias may be null.
template <bool kRelu, class T>
void forward_row(T* y, const T* x, const T* residual, const SumOf<T>* mean, const SumOf<T>* rstd,
                 const T* weight, const T* bias, int64_t width) {
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) {
    SumOf<T> value = (to_real(x[c]) - mean[c]) * (rstd[c] * to_real(weight[c]));
    if (bias != nullptr) value += to_real(bias[c]);
    if (residual != nullptr) value += to_real(residual[c]);
    if (kRelu && !(value > 0)) value = value != value ? value : SumOf<T>(0);  // a NaN stays visible
    assign(y[c], value);
  }
}

/// dy where y is positive; y null: everywhere.
template <class T>
SumOf<T> through_relu(const T* dy, const T* y, int64_t at) {
  return y == nullptr || to_real(y[at]) > 0 ? to_real(dy[at]) : SumOf<T>(0);
}

}  // namespace

void CpuBackend::column_moments(Tensor& moments, const Tensor& x) {
  for_float("column_moments", x.dtype(), [&]<class T>(T) {
    using Sum = SumOf<T>;
    const int64_t rows = x.rows(), width = x.width();
    Tensor partial = Tensor::empty(*this, {segment_count(rows), 2 * width}, moments.dtype());
    Sum *partials = partial.data<Sum>(), *out = moments.data<Sum>();
    const T* in = x.data<T>();
    for_segments(rows, [=](int64_t segment, int64_t first, int64_t last) {
      segment_moments(partials + 2 * segment * width, in, first, last, width);
    });
    parallel_for(width, [=](int64_t column) {
      const Moments all = join(partials, rows, kSegmentRows, width, column);
      out[column] = static_cast<Sum>(all.mean);
      out[width + column] = static_cast<Sum>(all.squares);
    });
  });
}

void CpuBackend::batch_norm_statistics(Tensor& statistics, RunningStatistics& running,
                                       const Tensor& parts, int64_t part_rows, double eps,
                                       double momentum) {
  for_float("batch_norm_statistics", statistics.dtype(), [&]<class T>(T) {
    const int64_t width = statistics.width(), rows = parts.size(0) * part_rows;
    T *mean = statistics.data<T>(), *rstd = mean + width;
    T *running_mean = optional_data<T>(running.mean),
      *running_variance = optional_data<T>(running.variance);
    for (int64_t c = 0; c < width; ++c) {
      const Moments all = join(parts.data<T>(), rows, part_rows, width, c);
      const auto count = static_cast<double>(rows);
      mean[c] = static_cast<T>(all.mean);
      rstd[c] = static_cast<T>(1 / std::sqrt(all.squares / count + eps));
      if (running_mean == nullptr) continue;
      const auto move = [=](T& to, double towards) {
        to = static_cast<T>(static_cast<double>(to) +
                            momentum * (towards - static_cast<double>(to)));
      };
      move(running_mean[c], all.mean);
      move(running_variance[c], all.squares / (count - 1));
    }
    if (running.batches) *running.batches.data<T>() += 1;
  });
}

void CpuBackend::batch_norm_relu_forward(Tensor& y, const Tensor& x, const Tensor& residual,
                                         const Tensor& statistics, const Tensor& weight,
                                         const Tensor& bias, Relu relu) {
  for_float("batch_norm_relu", x.dtype(), [&]<class T>(T) {
    const int64_t width = x.width();
    T* out = y.data<T>();
    const T *in = x.data<T>(), *added = optional_data<T>(residual), *gain = weight.data<T>(),
            *shift = optional_data<T>(bias);
    const SumOf<T>* mean = statistics.data<SumOf<T>>();
    for_segments(x.rows(), [=](int64_t, int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t at = row * width;
        const T* residual_row = added == nullptr ? nullptr : added + at;
        const auto run = relu == Relu::kYes ? forward_row<true, T> : forward_row<false, T>;
        run(out + at, in + at, residual_row, mean, mean + width, gain, shift, width);
      }
    });
  });
}

void CpuBackend::batch_norm_relu_sums(Tensor& sums, const Tensor& dy, const Tensor& x,
                                      const Tensor& y, const Tensor& statistics) {
  for_float("batch_norm_relu", x.dtype(), [&]<class T>(T) {
    using Sum = SumOf<T>;
    const int64_t width = x.width(), rows = x.rows(), segments = segment_count(rows);
    Tensor partial = Tensor::empty(*this, {segments, 2 * width}, sums.dtype());
    Sum* partials = partial.data<Sum>();
    const T *dys = dy.data<T>(), *in = x.data<T>(), *ys = optional_data<T>(y);
    const Sum *mean = statistics.data<Sum>(), *rstd = mean + width;
    for_segments(rows, [=](int64_t segment, int64_t first, int64_t last) {
      Sum *products = partials + 2 * segment * width, *gradients = products + width;
      std::fill(products, products + 2 * width, Sum(0));
      for (int64_t row = first; row < last; ++row) {
        const int64_t at = row * width;
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) {
          const Sum g = through_relu(dys, ys, at + c);
          products[c] += g * (to_real(in[at + c]) - mean[c]) * rstd[c];
          gradients[c] += g;
        }
      }
    });
    add_segments<Sum>(sums, partials, segments, 2 * width, Accumulate::kNo);
  });
}

void CpuBackend::batch_norm_relu_backward(Tensor& dx, Tensor& dresidual, const Tensor& dy,
                                          const Tensor& x, const Tensor& y,
                                          const Tensor& statistics, const Tensor& weight,
                                          const Tensor& sums, int64_t rows, Accumulate to_dx) {
  for_float("batch_norm_relu", x.dtype(), [&]<class T>(T) {
    using Sum = SumOf<T>;
    const int64_t width = x.width();
    T *out = optional_data<T>(dx), *residual_out = optional_data<T>(dresidual);
    const T *dys = dy.data<T>(), *in = x.data<T>(), *ys = optional_data<T>(y),
            *gain = weight.data<T>();
    const Sum *mean = statistics.data<Sum>(), *rstd = mean + width,
              *totals = optional_data<Sum>(sums);
    const Sum share = totals == nullptr ? Sum(0) : Sum(1) / static_cast<Sum>(rows);
    const bool add = to_dx == Accumulate::kYes;
    for_segments(x.rows(), [=](int64_t, int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t at = row * width;
        if (out != nullptr) {
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) {
            Sum gradient = through_relu(dys, ys, at + c);
            if (totals != nullptr) {
              const Sum xhat = (to_real(in[at + c]) - mean[c]) * rstd[c];
              gradient -= (totals[width + c] + xhat * totals[c]) * share;
            }
            gradient *= to_real(gain[c]) * rstd[c];
            assign(out[at + c], add ? to_real(out[at + c]) + gradient : gradient);
          }
        }
        if (residual_out == nullptr) continue;
#pragma omp simd
        for (int64_t c = 0; c < width; ++c)
          assign(residual_out[at + c], through_relu(dys, ys, at + c));
      }
    });
  });
}

}  // namespace clip
