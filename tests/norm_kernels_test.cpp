// Layer norm and l2 norm on the CPU against plain F64 loops.
#include "tests/kernel_checks.h"

namespace clip {
namespace {

constexpr double kEps = 1e-5;
const std::vector<Accumulate> kBoth = {Accumulate::kNo, Accumulate::kYes};

size_t at(int64_t row, int64_t column, int64_t width) {
  return static_cast<size_t>(row * width + column);
}

struct NormReference {
  Doubles y, mean, rstd;
};

NormReference norm_reference(const Doubles& x, const Doubles& weight, const Doubles& bias,
                             int64_t rows, int64_t width) {
  NormReference result{x, Doubles(static_cast<size_t>(rows)), Doubles(static_cast<size_t>(rows))};
  for (int64_t r = 0; r < rows; ++r) {
    double mean = 0, variance = 0;
    for (int64_t c = 0; c < width; ++c) mean += x[at(r, c, width)];
    mean /= static_cast<double>(width);
    for (int64_t c = 0; c < width; ++c) variance += std::pow(x[at(r, c, width)] - mean, 2);
    const double rstd = 1 / std::sqrt(variance / static_cast<double>(width) + kEps);
    for (int64_t c = 0; c < width; ++c) {
      const auto column = static_cast<size_t>(c);
      result.y[at(r, c, width)] =
          (x[at(r, c, width)] - mean) * rstd * weight[column] + bias[column];
    }
    result.mean[static_cast<size_t>(r)] = mean;
    result.rstd[static_cast<size_t>(r)] = rstd;
  }
  return result;
}

struct NormGradients {
  Doubles dx, dweight, dbias, dx_bias;
};

/// base: what is added to dx, e.g. the gradient of the sum.
NormGradients norm_gradients(const Doubles& dy, const Doubles& x, const NormReference& norm,
                             const Doubles& weight, const Doubles& base, int64_t rows,
                             int64_t width) {
  const Doubles zeros(static_cast<size_t>(width));
  NormGradients result{base, zeros, zeros, zeros};
  for (int64_t r = 0; r < rows; ++r) {
    const double mean = norm.mean[static_cast<size_t>(r)], rstd = norm.rstd[static_cast<size_t>(r)];
    double g_mean = 0, g_xhat_mean = 0;
    for (int64_t c = 0; c < width; ++c) {
      const double g = dy[at(r, c, width)] * weight[static_cast<size_t>(c)];
      g_mean += g / static_cast<double>(width);
      g_xhat_mean += g * (x[at(r, c, width)] - mean) * rstd / static_cast<double>(width);
    }
    for (int64_t c = 0; c < width; ++c) {
      const auto column = static_cast<size_t>(c);
      const size_t i = at(r, c, width);
      const double xhat = (x[i] - mean) * rstd;
      result.dx[i] += rstd * (dy[i] * weight[column] - g_mean - xhat * g_xhat_mean);
      result.dweight[column] += dy[i] * xhat;
      result.dbias[column] += dy[i];
      result.dx_bias[column] += result.dx[i];
    }
  }
  return result;
}

struct NormInputs {
  Doubles x, residual, x_bias, weight, bias, dy, dsum;
  NormInputs(int64_t rows, int64_t width)
      : x(random_values(rows * width, 1)),
        residual(random_values(rows * width, 2)),
        x_bias(random_values(width, 3)),
        weight(random_values(width, 4)),
        bias(random_values(width, 5)),
        dy(random_values(rows * width, 6)),
        dsum(random_values(rows * width, 7)) {}
  Doubles sum(int64_t width) const {
    Doubles result = x;
    for (size_t i = 0; i < x.size(); ++i) {
      result[i] += residual[i] + x_bias[i % static_cast<size_t>(width)];
    }
    return result;
  }
};

// Tolerances, in roundings of values of the order of 1. A row: means of C terms (errors far below C
// roundings, as partial sums are kept per vector lane), times rstd, which is at most a few.
// Exception: one column, where rstd is 1 / sqrt(eps) = 316. Column sums: R terms of up to about 10.
template <class T>
double row_tolerance(int64_t width) {
  return roundings<T>(width == 1 ? 2000 : 100);
}
template <class T>
double sum_tolerance(int64_t rows) {
  return roundings<T>(100 + 2 * static_cast<double>(rows));
}

TEST(LayerNormKernel, ForwardMatchesPlainLoops) {
  for_ragged_sizes([]<class T>(T, int64_t rows, int64_t width) {
    const NormInputs in(rows, width);
    const NormReference expected = norm_reference(in.x, in.weight, in.bias, rows, width);
    Output y = output<T>({rows, width}), mean = output<T>({rows}), rstd = output<T>({rows});
    cpu_backend().layer_norm_forward(
        y.tensor, mean.tensor, rstd.tensor, tensor_of<T>({rows, width}, in.x),
        tensor_of<T>({width}, in.weight), tensor_of<T>({width}, in.bias), kEps);
    y.expect(expected.y, row_tolerance<T>(width), "y");
    mean.expect(expected.mean, row_tolerance<T>(width), "mean");
    rstd.expect(expected.rstd, row_tolerance<T>(width), "rstd");
  });
}

TEST(LayerNormKernel, BackwardMatchesPlainLoopsWritingAndAdding) {
  for_ragged_sizes([]<class T>(T, int64_t rows, int64_t width) {
    const NormInputs in(rows, width);
    const NormReference norm = norm_reference(in.x, in.weight, in.bias, rows, width);
    const NormGradients expected =
        norm_gradients(in.dy, in.x, norm, in.weight, Doubles(in.x.size()), rows, width);
    for (const Accumulate to : kBoth) {
      Output dx = output<T>({rows, width}, to), dweight = output<T>({width}, to),
             dbias = output<T>({width}, to);
      cpu_backend().layer_norm_backward(
          dx.tensor, dweight.tensor, dbias.tensor, tensor_of<T>({rows, width}, in.dy),
          tensor_of<T>({rows, width}, in.x), tensor_of<T>({rows}, norm.mean),
          tensor_of<T>({rows}, norm.rstd), tensor_of<T>({width}, in.weight), to, to, to);
      dx.expect(expected.dx, row_tolerance<T>(width), "dx");
      dweight.expect(expected.dweight, sum_tolerance<T>(rows), "dweight");
      dbias.expect(expected.dbias, sum_tolerance<T>(rows), "dbias");
    }
  });
}

TEST(LayerNormKernel, BackwardSkipsOutputsThatAreNotWanted) {
  const int64_t rows = 300, width = 33;
  const NormInputs in(rows, width);
  const NormReference norm = norm_reference(in.x, in.weight, in.bias, rows, width);
  const NormGradients expected =
      norm_gradients(in.dy, in.x, norm, in.weight, Doubles(in.x.size()), rows, width);
  const auto run = [&](Tensor dx, Tensor dweight, Tensor dbias) {
    cpu_backend().layer_norm_backward(
        dx, dweight, dbias, tensor_of<double>({rows, width}, in.dy),
        tensor_of<double>({rows, width}, in.x), tensor_of<double>({rows}, norm.mean),
        tensor_of<double>({rows}, norm.rstd), tensor_of<double>({width}, in.weight),
        Accumulate::kNo, Accumulate::kNo, Accumulate::kNo);
  };
  Output dx = output<double>({rows, width}), dweight = output<double>({width}),
         dbias = output<double>({width});
  run(dx.tensor, {}, {});
  run({}, dweight.tensor, {});
  run({}, {}, dbias.tensor);
  dx.expect(expected.dx, 1e-12, "dx");
  dweight.expect(expected.dweight, 1e-12, "dweight");
  dbias.expect(expected.dbias, 1e-12, "dbias");
}

TEST(LayerNormKernel, KeepsTheVarianceOfRowsFarFromZero) {
  const int64_t rows = 5, width = 640;
  const Doubles x = random_values(rows * width, 1, 1000, 1000.5);
  const Doubles ones(static_cast<size_t>(width), 1), zeros(static_cast<size_t>(width));
  const NormReference expected = norm_reference(x, ones, zeros, rows, width);
  Output y = output<float>({rows, width}), mean = output<float>({rows}),
         rstd = output<float>({rows});
  cpu_backend().layer_norm_forward(
      y.tensor, mean.tensor, rstd.tensor, tensor_of<float>({rows, width}, x),
      tensor_of<float>({width}, ones), tensor_of<float>({width}, zeros), kEps);
  // The mean is off by a few roundings of 1000 (1e-4 each), times rstd 7. The mean of squares minus
  // the square of the mean would be off by more than the variance itself, 0.02.
  y.expect(expected.y, 5e-3, "y");
  rstd.expect(expected.rstd, 1e-4, "rstd");
}

TEST(BiasResidualLayerNormKernel, ForwardMatchesPlainLoops) {
  for_ragged_sizes([]<class T>(T, int64_t rows, int64_t width) {
    const NormInputs in(rows, width);
    const Doubles total = in.sum(width);
    const NormReference expected = norm_reference(total, in.weight, in.bias, rows, width);
    Output sum = output<T>({rows, width}), y = output<T>({rows, width}), mean = output<T>({rows}),
           rstd = output<T>({rows}), y_alone = output<T>({rows, width});
    const auto run = [&](Tensor sum_out, Tensor y_out, Tensor mean_out, Tensor rstd_out) {
      cpu_backend().bias_residual_layer_norm_forward(
          sum_out, y_out, mean_out, rstd_out, tensor_of<T>({rows, width}, in.residual),
          tensor_of<T>({rows, width}, in.x), tensor_of<T>({width}, in.x_bias),
          tensor_of<T>({width}, in.weight), tensor_of<T>({width}, in.bias), kEps);
    };
    run(sum.tensor, y.tensor, mean.tensor, rstd.tensor);
    run({}, y_alone.tensor, {}, {});
    sum.expect(total, row_tolerance<T>(2), "sum");
    y.expect(expected.y, row_tolerance<T>(width), "y");
    y_alone.expect(expected.y, row_tolerance<T>(width), "y without sum");
    mean.expect(expected.mean, row_tolerance<T>(width), "mean");
    rstd.expect(expected.rstd, row_tolerance<T>(width), "rstd");
  });
}

/// Runs the fused backward kernel; dsum may be undefined.
template <class T>
void fused_backward(Tensor& dtotal, Tensor dx_bias, Tensor dweight, Tensor dbias,
                    const Tensor& dsum, const NormInputs& in, const NormReference& norm,
                    int64_t rows, int64_t width, Accumulate to) {
  cpu_backend().bias_residual_layer_norm_backward(
      dtotal, dx_bias, dweight, dbias, dsum, tensor_of<T>({rows, width}, in.dy),
      tensor_of<T>({rows, width}, in.sum(width)), tensor_of<T>({rows}, norm.mean),
      tensor_of<T>({rows}, norm.rstd), tensor_of<T>({width}, in.weight), to, to, to);
}

TEST(BiasResidualLayerNormKernel, BackwardMatchesPlainLoopsInPlaceOfTheSumGradient) {
  for_ragged_sizes([]<class T>(T, int64_t rows, int64_t width) {
    const NormInputs in(rows, width);
    const Doubles total = in.sum(width);
    const NormReference norm = norm_reference(total, in.weight, in.bias, rows, width);
    const NormGradients expected =
        norm_gradients(in.dy, total, norm, in.weight, in.dsum, rows, width);
    for (const Accumulate to : kBoth) {
      Tensor dtotal = tensor_of<T>({rows, width}, in.dsum);
      Output dx_bias = output<T>({width}, to), dweight = output<T>({width}, to),
             dbias = output<T>({width}, to);
      // One column: g - mean(g) and x - mean are nothing but a rounding, times rstd 316.
      const double one_column = width == 1 ? 316 : 1;
      fused_backward<T>(dtotal, dx_bias.tensor, dweight.tensor, dbias.tensor, dtotal, in, norm,
                        rows, width, to);
      expect_near(dtotal, expected.dx, row_tolerance<T>(width), "dtotal");
      dx_bias.expect(expected.dx_bias, sum_tolerance<T>(rows) * one_column, "dx_bias");
      dweight.expect(expected.dweight, sum_tolerance<T>(rows) * one_column, "dweight");
      dbias.expect(expected.dbias, sum_tolerance<T>(rows), "dbias");
    }
  });
}

TEST(BiasResidualLayerNormKernel, BackwardTakesAnAbsentSumGradientForZero) {
  const int64_t rows = 300, width = 33;
  const NormInputs in(rows, width);
  const Doubles total = in.sum(width);
  const NormReference norm = norm_reference(total, in.weight, in.bias, rows, width);
  const NormGradients expected =
      norm_gradients(in.dy, total, norm, in.weight, Doubles(total.size()), rows, width);
  Output dtotal = output<double>({rows, width}), dx_bias = output<double>({width});
  fused_backward<double>(dtotal.tensor, {}, {}, {}, {}, in, norm, rows, width, Accumulate::kNo);
  Tensor not_wanted;
  fused_backward<double>(not_wanted, dx_bias.tensor, {}, {}, {}, in, norm, rows, width,
                         Accumulate::kNo);
  dtotal.expect(expected.dx, 1e-12, "dtotal");
  dx_bias.expect(expected.dx_bias, 1e-12, "dx_bias");
}

TEST(LayerNormKernel, GivesTheSameBitsForAnyThreadCount) {
  const int64_t rows = 1000, width = 33;
  const NormInputs in(rows, width);
  const NormReference norm = norm_reference(in.sum(width), in.weight, in.bias, rows, width);
  expect_same_bits_for_any_thread_count([&] {
    Tensor dtotal = output<float>({rows, width}).tensor, dx_bias = output<float>({width}).tensor,
           dweight = output<float>({width}).tensor, dbias = output<float>({width}).tensor,
           y = output<float>({rows, width}).tensor, none;
    fused_backward<float>(dtotal, dx_bias, dweight, dbias, tensor_of<float>({rows, width}, in.dsum),
                          in, norm, rows, width, Accumulate::kNo);
    cpu_backend().layer_norm_forward(y, none, none, tensor_of<float>({rows, width}, in.x),
                                     tensor_of<float>({width}, in.weight),
                                     tensor_of<float>({width}, in.bias), kEps);
    return std::vector<Tensor>{dtotal, dx_bias, dweight, dbias, y};
  });
}

double product(const Doubles& a, const Doubles& b, int64_t row, int64_t width) {
  double total = 0;
  for (int64_t c = 0; c < width; ++c) total += a[at(row, c, width)] * b[at(row, c, width)];
  return total;
}

TEST(L2NormalizeKernel, MatchesPlainLoopsBothWays) {
  for_ragged_sizes([]<class T>(T, int64_t rows, int64_t width) {
    const Doubles x = random_values(rows * width, 1), dy = random_values(rows * width, 2);
    Doubles y = x, dx = x, inverse(static_cast<size_t>(rows));
    for (int64_t r = 0; r < rows; ++r) {
      const double scale = 1 / std::sqrt(product(x, x, r, width));
      inverse[static_cast<size_t>(r)] = scale;
      for (int64_t c = 0; c < width; ++c) y[at(r, c, width)] *= scale;
      const double along = product(y, dy, r, width);
      for (int64_t c = 0; c < width; ++c) {
        const size_t i = at(r, c, width);
        dx[i] = scale * (dy[i] - y[i] * along);
      }
    }
    Output y_out = output<T>({rows, width}), inverse_out = output<T>({rows});
    cpu_backend().l2_normalize_forward(y_out.tensor, inverse_out.tensor,
                                       tensor_of<T>({rows, width}, x));
    y_out.expect(y, roundings<T>(4), "y");
    inverse_out.expect(inverse, roundings<T>(4), "inverse_norm");
    for (const Accumulate to : kBoth) {
      Output dx_out = output<T>({rows, width}, to);
      cpu_backend().l2_normalize_backward(dx_out.tensor, tensor_of<T>({rows, width}, dy),
                                          tensor_of<T>({rows, width}, y),
                                          tensor_of<T>({rows}, inverse), to);
      // One column: dy cancels but for roundings, times 1 / |x|, which reaches some thousands.
      dx_out.expect(dx, roundings<T>(width == 1 ? 10000 : 30), "dx");
    }
  });
}

TEST(L2NormalizeKernel, ScalesRowsShorterThanTheSmallestNormByAConstant) {
  const Doubles x = {0, 0, 3e-14, 4e-14}, dy = {1, -2, 3, 4};
  Output y = output<float>({2, 2}), inverse = output<float>({2}), dx = output<float>({2, 2});
  cpu_backend().l2_normalize_forward(y.tensor, inverse.tensor, tensor_of<float>({2, 2}, x));
  cpu_backend().l2_normalize_backward(dx.tensor, tensor_of<float>({2, 2}, dy), y.tensor,
                                      inverse.tensor, Accumulate::kNo);
  y.expect({0, 0, 0.03, 0.04}, roundings<float>(4), "y");
  dx.expect({1e12, -2e12, 3e12, 4e12}, roundings<float>(4), "dx");
}

TEST(L2NormalizeKernel, LengthsWhoseSquaresLeaveTheRangeOfF32AreNormalised) {
  Output y = output<float>({2, 2}), inverse = output<float>({2});
  cpu_backend().l2_normalize_forward(y.tensor, inverse.tensor,
                                     tensor_of<float>({2, 2}, {3e25, 4e25, 3e-11, 4e-11}));
  // 3e-11 squared is 9e-22, which is fine; 3e25 squared is not.
  y.expect({0.6, 0.8, 0.6, 0.8}, roundings<float>(4), "y");
}

}  // namespace
}  // namespace clip
