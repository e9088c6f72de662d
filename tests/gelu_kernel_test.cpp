// bias_gelu on the CPU against plain F64 loops with the standard library's functions.
#include "tests/kernel_checks.h"

namespace clip {
namespace {

double plain_gelu(double x, Gelu kind) {
  return kind == Gelu::kQuick ? x / (1 + std::exp(-1.702 * x))
                              : 0.5 * x * std::erfc(-x / std::sqrt(2.0));
}

double plain_derivative(double x, Gelu kind) {
  if (kind == Gelu::kErf) {
    return 0.5 * std::erfc(-x / std::sqrt(2.0)) +
           x * std::exp(-0.5 * x * x) / std::sqrt(2 * std::acos(-1.0));
  }
  const double s = 1 / (1 + std::exp(-1.702 * x));
  return s + 1.702 * x * s * (1 - s);
}

struct GeluCase {
  Doubles x, bias, dy, y, dx, dbias;
  GeluCase(int64_t rows, int64_t width, Gelu kind)
      : x(random_values(rows * width, 1, -6, 6)),
        bias(random_values(width, 2)),
        dy(random_values(rows * width, 3)),
        y(x),
        dx(x),
        dbias(bias.size()) {
    for (size_t i = 0; i < x.size(); ++i) {
      const size_t column = i % bias.size();
      y[i] = plain_gelu(x[i] + bias[column], kind);
      dx[i] = dy[i] * plain_derivative(x[i] + bias[column], kind);
      dbias[column] += dx[i];
    }
  }
};

const std::vector<Gelu> kKinds = {Gelu::kQuick, Gelu::kErf};

TEST(BiasGeluKernel, ForwardMatchesPlainLoops) {
  for (const Gelu kind : kKinds) {
    for_ragged_sizes([&]<class T>(T, int64_t rows, int64_t width) {
      const GeluCase expected(rows, width, kind);
      Output y = output<T>({rows, width});
      cpu_backend().bias_gelu_forward(y.tensor, tensor_of<T>({rows, width}, expected.x),
                                      tensor_of<T>({width}, expected.bias), kind);
      // x + bias is rounded, at up to 8; then some roundings of numbers of the order of the result.
      y.expect(expected.y, roundings<T>(8), "y");
    });
  }
}

TEST(BiasGeluKernel, BackwardMatchesPlainLoopsWritingAndAdding) {
  for (const Gelu kind : kKinds) {
    for_ragged_sizes([&]<class T>(T, int64_t rows, int64_t width) {
      const GeluCase expected(rows, width, kind);
      for (const Accumulate to : {Accumulate::kNo, Accumulate::kYes}) {
        Output dx = output<T>({rows, width}, to), dbias = output<T>({width}, to);
        cpu_backend().bias_gelu_backward(dx.tensor, dbias.tensor,
                                         tensor_of<T>({rows, width}, expected.dy),
                                         tensor_of<T>({rows, width}, expected.x),
                                         tensor_of<T>({width}, expected.bias), kind, to, to);
        dx.expect(expected.dx, roundings<T>(16), "dx");
        // Sums of R terms of the order of 1.
        dbias.expect(expected.dbias, roundings<T>(16 + static_cast<double>(rows)), "dbias");
      }
    });
  }
}

TEST(BiasGeluKernel, BackwardSkipsOutputsThatAreNotWanted) {
  const int64_t rows = 300, width = 33;
  const GeluCase expected(rows, width, Gelu::kQuick);
  const auto run = [&](Tensor dx, Tensor dbias) {
    cpu_backend().bias_gelu_backward(dx, dbias, tensor_of<double>({rows, width}, expected.dy),
                                     tensor_of<double>({rows, width}, expected.x),
                                     tensor_of<double>({width}, expected.bias), Gelu::kQuick,
                                     Accumulate::kYes, Accumulate::kYes);
  };
  Output dx = output<double>({rows, width}, Accumulate::kYes),
         dbias = output<double>({width}, Accumulate::kYes);
  run(dx.tensor, {});
  run({}, dbias.tensor);
  dx.expect(expected.dx, 1e-12, "dx");
  dbias.expect(expected.dbias, 1e-12, "dbias");
}

TEST(BiasGeluKernel, CarriesANanFromInputToOutput) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const Gelu kind : kKinds) {
    Doubles x(40);
    x[3] = nan;
    Tensor y = output<float>({1, 40}).tensor;
    cpu_backend().bias_gelu_forward(y, tensor_of<float>({1, 40}, x),
                                    tensor_of<float>({40}, Doubles(40)), kind);
    EXPECT_TRUE(std::isnan(to_doubles(y)[3]));
    EXPECT_EQ(to_doubles(y)[4], 0.0);
  }
}

TEST(BiasGeluKernel, GivesTheSameBitsForAnyThreadCount) {
  const int64_t rows = 1000, width = 33;
  const GeluCase in(rows, width, Gelu::kErf);
  expect_same_bits_for_any_thread_count([&] {
    Tensor dx = output<float>({rows, width}).tensor, dbias = output<float>({width}).tensor;
    cpu_backend().bias_gelu_backward(
        dx, dbias, tensor_of<float>({rows, width}, in.dy), tensor_of<float>({rows, width}, in.x),
        tensor_of<float>({width}, in.bias), Gelu::kErf, Accumulate::kNo, Accumulate::kNo);
    return std::vector<Tensor>{dx, dbias};
  });
}

}  // namespace
}  // namespace clip
