// BatchNorm with the ReLU and the residual sum after it. Moments are taken of segments of rows, twice
// over each while it lies in the cache, and joined in order; those of ranks are joined the same way.
#include <cmath>
#include <type_traits>
#include <vector>

#include "engine/cpu/bfloat16.h"
#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/segments.h"

namespace clip {
namespace {

/// moments [2, C] of rows [first, last) of x [R, C].
template <class T>
void segment_moments(Real<T>* moments, const T* x, int64_t first, int64_t last, int64_t width) {
  Real<T>*mean = moments, *squares = moments + width;
  std::fill(moments, moments + 2 * width, Real<T>(0));
  for (int64_t row = first; row < last; ++row)
    put_row(mean, x + row * width, width, Accumulate::kYes);
  const auto count = static_cast<Real<T>>(last - first);
  for (int64_t c = 0; c < width; ++c) mean[c] /= count;
  for (int64_t row = first; row < last; ++row) {
    const T* from = x + row * width;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) {
      const Real<T> deviation = to_real(from[c]) - mean[c];
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

/// What a row needs of its columns: statistics, and the affine part, absent biases being 0.
template <class T>
struct Affine {
  const Real<T>*mean, *rstd, *gain, *bias;
};

/// One row forward; residual is read where there is one.
template <bool kResidual, bool kRelu, class T>
void forward_row(T* y, const T* x, const T* residual, const Affine<T>& affine, int64_t width) {
  const Real<T>*mean = affine.mean, *gain = affine.gain, *bias = affine.bias;
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) {
    Real<T> value = (to_real(x[c]) - mean[c]) * gain[c] + bias[c];
    if constexpr (kResidual) value += to_real(residual[c]);
    if constexpr (kRelu) value = value < 0 ? Real<T>(0) : value;  // a NaN stays visible
    assign(y[c], value);
  }
}

/// dy, with ReLU where y is positive.
template <bool kRelu, class T>
Real<T> through_relu(const T* dy, const T* y, int64_t c) {
  if constexpr (kRelu) return to_real(y[c]) > 0 ? to_real(dy[c]) : Real<T>(0);
  return to_real(dy[c]);
}

/// products += g x^, gradients += g for one row.
template <bool kRelu, class T>
void add_row_sums(Real<T>* products, Real<T>* gradients, const T* dy, const T* x, const T* y,
                  const Affine<T>& affine, int64_t width) {
  const Real<T>*mean = affine.mean, *rstd = affine.rstd;
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) {
    const Real<T> g = through_relu<kRelu>(dy, y, c);
    products[c] += g * (to_real(x[c]) - mean[c]) * rstd[c];
    gradients[c] += g;
  }
}

/// dx (+)= gain (g - mean_g - x^ mean_product) for one row; means [C] over all that was normalised
/// together.
template <bool kRelu, class T>
void backward_row(T* dx, const T* dy, const T* x, const T* y, const Affine<T>& affine,
                  const Real<T>* mean_product, const Real<T>* mean_g, bool add, int64_t width) {
  const Real<T>*mean = affine.mean, *rstd = affine.rstd, *gain = affine.gain;
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) {
    const Real<T> xhat = (to_real(x[c]) - mean[c]) * rstd[c];
    const Real<T> g = through_relu<kRelu>(dy, y, c);
    const Real<T> gradient = gain[c] * (g - mean_g[c] - xhat * mean_product[c]);
    assign(dx[c], add ? to_real(dx[c]) + gradient : gradient);
  }
}

template <bool kRelu, class T>
void residual_row(T* dresidual, const T* dy, const T* y, int64_t width) {
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) assign(dresidual[c], through_relu<kRelu>(dy, y, c));
}

/// gain = rstd weight and the bias, side by side.
template <class T>
std::vector<Real<T>> gain_and_bias(const Tensor& statistics, const Tensor& weight,
                                   const Tensor& bias) {
  const int64_t width = statistics.width();
  const Real<T>* rstd = statistics.data<Real<T>>() + width;
  const T *gain = weight.data<T>(), *shift = optional_data<T>(bias);
  std::vector<Real<T>> values(static_cast<size_t>(2 * width), Real<T>(0));
  for (int64_t c = 0; c < width; ++c) {
    values[static_cast<size_t>(c)] = rstd[c] * to_real(gain[c]);
    if (shift != nullptr) values[static_cast<size_t>(width + c)] = to_real(shift[c]);
  }
  return values;
}

/// body(true_type or false_type): loops with a condition inside are not vectorised.
template <class Body>
void for_flag(bool flag, const Body& body) {
  flag ? body(std::true_type{}) : body(std::false_type{});
}

}  // namespace

void CpuBackend::column_moments(Tensor& moments, const Tensor& x) {
  for_float("column_moments", x.dtype(), [&]<class T>(T) {
    using Sum = Real<T>;
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
  for_real("batch_norm_statistics", statistics.dtype(), [&]<class T>(T) {
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
    const T *in = x.data<T>(), *added = optional_data<T>(residual);
    const Real<T>* mean = statistics.data<Real<T>>();
    const auto constants = gain_and_bias<T>(statistics, weight, bias);
    const Affine<T> affine{mean, mean + width, constants.data(), constants.data() + width};
    for_flag(added != nullptr, [&](auto has_residual) {
      for_flag(relu == Relu::kYes, [&](auto has_relu) {
        for_segments(x.rows(), [&](int64_t, int64_t first, int64_t last) {
          for (int64_t at = first * width; at < last * width; at += width)
            forward_row<has_residual, has_relu>(out + at, in + at,
                                                has_residual ? added + at : nullptr, affine, width);
        });
      });
    });
  });
}

void CpuBackend::batch_norm_relu_sums(Tensor& sums, const Tensor& dy, const Tensor& x,
                                      const Tensor& y, const Tensor& statistics) {
  for_float("batch_norm_relu", x.dtype(), [&]<class T>(T) {
    using Sum = Real<T>;
    const int64_t width = x.width(), rows = x.rows(), segments = segment_count(rows);
    Tensor partial = Tensor::empty(*this, {segments, 2 * width}, sums.dtype());
    Sum* partials = partial.data<Sum>();
    const T *dys = dy.data<T>(), *in = x.data<T>(), *ys = optional_data<T>(y);
    const Sum* mean = statistics.data<Sum>();
    const Affine<T> affine{mean, mean + width, nullptr, nullptr};
    for_flag(ys != nullptr, [&](auto has_relu) {
      for_segments(rows, [&](int64_t segment, int64_t first, int64_t last) {
        Sum* products = partials + 2 * segment * width;
        std::fill(products, products + 2 * width, Sum(0));
        for (int64_t at = first * width; at < last * width; at += width)
          add_row_sums<has_relu>(products, products + width, dys + at, in + at,
                                 has_relu ? ys + at : nullptr, affine, width);
      });
    });
    add_segments<Sum>(sums, partials, segments, 2 * width, Accumulate::kNo);
  });
}

void CpuBackend::batch_norm_relu_backward(Tensor& dx, Tensor& dresidual, const Tensor& dy,
                                          const Tensor& x, const Tensor& y,
                                          const Tensor& statistics, const Tensor& weight,
                                          const Tensor& sums, int64_t rows, Accumulate to_dx) {
  for_float("batch_norm_relu", x.dtype(), [&]<class T>(T) {
    using Sum = Real<T>;
    const int64_t width = x.width();
    T *out = optional_data<T>(dx), *residual_out = optional_data<T>(dresidual);
    const T *dys = dy.data<T>(), *in = x.data<T>(), *ys = optional_data<T>(y);
    const Sum *mean = statistics.data<Sum>(), *totals = optional_data<Sum>(sums);
    const auto constants = gain_and_bias<T>(statistics, weight, {});
    const Affine<T> affine{mean, mean + width, constants.data(), nullptr};
    std::vector<Sum> means(static_cast<size_t>(2 * width), Sum(0));  // constant statistics: 0
    for (size_t i = 0; totals != nullptr && i < means.size(); ++i)
      means[i] = totals[i] / static_cast<Sum>(rows);
    const bool add = to_dx == Accumulate::kYes;
    for_flag(ys != nullptr, [&](auto has_relu) {
      for_segments(x.rows(), [&](int64_t, int64_t first, int64_t last) {
        for (int64_t at = first * width; at < last * width; at += width) {
          const T* mask = has_relu ? ys + at : nullptr;
          if (out != nullptr)
            backward_row<has_relu>(out + at, dys + at, in + at, mask, affine, means.data(),
                                   means.data() + width, add, width);
          if (residual_out != nullptr)
            residual_row<has_relu>(residual_out + at, dys + at, mask, width);
        }
      });
    });
  });
}

}  // namespace clip
