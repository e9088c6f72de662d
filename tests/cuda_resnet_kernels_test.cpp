// The kernels of residual networks on the GPU against the CPU's: ragged maps, results written and
// added, outputs that are not wanted, F32 and BF16 activations.
#include "tests/cuda_parity.h"

namespace clip {
namespace {

constexpr Accumulate kBoth[] = {Accumulate::kNo, Accumulate::kYes};

/// Relative to the largest number of a result; BF16 keeps 8 bits, so what is stored in it is off by
/// 2^-9, and sums of stored numbers add some of these.
constexpr double kF32Tolerance = 1e-5, kBF16Tolerance = 1e-2;

// Widths below, at and off the 16-byte vectors and the lanes of a tile; rows below and above segments.
struct Size {
  int64_t rows, width;
};
const std::vector<Size> kSizes = {{2, 1}, {31, 7}, {33, 64}, {257, 40}, {600, 33}, {40, 640}};

class GpuResNetKernel : public OnGpu {
 protected:
  using Run = std::function<std::vector<Tensor>(const Draw&)>;
  void expect_same(const std::string& what, const Run& run) {
    SCOPED_TRACE(what);
    expect_parity(gpu(), run, DType::kF32, kF32Tolerance);
    expect_parity(gpu(), run, DType::kBF16, kBF16Tolerance);
  }
};

TEST_F(GpuResNetKernel, WindowsGoToRowsAndBack) {
  for (const Shape& shape : {Shape{2, 5, 7, 3}, Shape{3, 4, 4, 8}, Shape{1, 1, 1, 33}}) {
    for (const int64_t stride : {1, 2}) {
      for (const Accumulate to : kBoth) {
        expect_same(concat(shape, " stride ", stride), [&](const Draw& draw) {
          const int64_t rows = (shape[1] - 1) / stride + 1, per_row = (shape[2] - 1) / stride + 1;
          const Shape matrix = {shape[0] * rows * per_row, 9 * shape[3]};
          Tensor columns = draw.activation_output(matrix, Accumulate::kNo);
          columns.backend().im2col(columns, draw.activation(shape, 1), stride);
          Tensor dx = draw.activation_output(shape, to);
          dx.backend().col2im(dx, draw.activation(matrix, 2), stride, to);
          return std::vector<Tensor>{columns, dx};
        });
      }
    }
  }
}

TEST_F(GpuResNetKernel, TransposesTheAxesOfWeightsAndTheirGradients) {
  for (const Accumulate to : kBoth) {
    expect_same("transpose", [&](const Draw& draw) {
      Tensor y = draw.activation_output({5, 9, 7}, to), dy = draw.f32_output({5, 9, 7}, to);
      y.backend().transpose_matrices(y, draw.activation({5, 7, 9}, 1), to);
      dy.backend().transpose_matrices(dy, draw.f32({5, 7, 9}, 1), to);
      return std::vector<Tensor>{y, dy};
    });
  }
}

TEST_F(GpuResNetKernel, MomentsAndStatisticsJoinPartsOfRows) {
  for (const auto& [rows, width] : kSizes) {
    expect_same(concat(rows, " x ", width), [&, rows = rows, width = width](const Draw& draw) {
      Tensor moments = draw.f32_output({2, width}, Accumulate::kNo);
      Backend& backend = moments.backend();
      backend.column_moments(moments, draw.activation({rows, width}, 1));
      // Two ranks with other means: what is joined is more than a sum.
      Tensor parts = draw.f32({2, 2, width}, 2);
      Tensor first = parts.slice(0, 1).reshape({2, width});
      backend.copy(first, moments);
      Tensor squares = parts.reshape({4, width}).slice(3, 4);
      backend.copy(squares, moments.slice(1, 2));
      RunningStatistics running{draw.f32({width}, 3), draw.f32({width}, 4), draw.f32({}, 5)};
      Tensor statistics = draw.f32_output({2, width}, Accumulate::kNo);
      backend.batch_norm_statistics(statistics, running, parts, rows, 1e-5, 0.1);
      return std::vector<Tensor>{moments,      statistics.slice(0, 1), statistics.slice(1, 2),
                                 running.mean, running.variance,       running.batches};
    });
  }
}

/// Statistics with deviations around 1.
Tensor statistics(const Draw& draw, int64_t width) {
  Tensor moments = draw.f32({1, 2, width}, 7);
  Tensor deviations = moments.reshape({2, width}).slice(1, 2);
  deviations.copy_from_host(std::vector<float>(static_cast<size_t>(width), 1.3f).data());
  Tensor result = draw.f32_output({2, width}, Accumulate::kNo);
  RunningStatistics none;
  result.backend().batch_norm_statistics(result, none, moments, 1, 1e-5, 0);
  return result;
}

TEST_F(GpuResNetKernel, NormalisesAddsAndCutsAtZero) {
  for (const auto& [rows, width] : kSizes) {
    for (const Relu relu : {Relu::kNo, Relu::kYes}) {
      expect_same(concat(rows, " x ", width), [&, rows = rows, width = width](const Draw& draw) {
        const Tensor x = draw.activation({rows, width}, 1), gain = draw.activation({width}, 2),
                     bias = draw.activation({width}, 3),
                     residual = draw.activation({rows, width}, 4);
        Tensor whole = draw.activation_output({rows, width}, Accumulate::kNo),
               plain = draw.activation_output({rows, width}, Accumulate::kNo);
        Backend& backend = x.backend();
        backend.batch_norm_relu_forward(whole, x, residual, statistics(draw, width), gain, bias,
                                        relu);
        backend.batch_norm_relu_forward(plain, x, {}, statistics(draw, width), gain, {}, relu);
        return std::vector<Tensor>{whole, plain};
      });
    }
  }
}

TEST_F(GpuResNetKernel, SendsGradientsBackThroughStatisticsReluAndSum) {
  for (const auto& [rows, width] : kSizes) {
    for (const Accumulate to : kBoth) {
      for (const bool relu : {false, true}) {
        expect_same(concat(rows, " x ", width), [&, rows = rows, width = width](const Draw& draw) {
          const Tensor x = draw.activation({rows, width}, 1),
                       dy = draw.activation({rows, width}, 2), gain = draw.activation({width}, 3),
                       norm = statistics(draw, width);
          const Tensor y = relu ? draw.activation({rows, width}, 4) : Tensor();
          Tensor sums = draw.f32_output({2, width}, Accumulate::kNo);
          Tensor dx = draw.activation_output({rows, width}, to),
                 dresidual = draw.activation_output({rows, width}, Accumulate::kNo),
                 alone = draw.activation_output({rows, width}, to), none;
          Backend& backend = x.backend();
          backend.batch_norm_relu_sums(sums, dy, x, y, norm);
          backend.batch_norm_relu_backward(dx, dresidual, dy, x, y, norm, gain, sums, 2 * rows, to);
          backend.batch_norm_relu_backward(alone, none, dy, x, y, norm, gain, {}, 0, to);
          return std::vector<Tensor>{sums, dx, dresidual, alone};
        });
      }
    }
  }
}

TEST_F(GpuResNetKernel, SumsOfNoRowsAreZero) {
  expect_same("no rows", [&](const Draw& draw) {
    const Tensor none = draw.activation({0, 7}, 1);
    Tensor sums = draw.f32_output({2, 7}, Accumulate::kNo);
    sums.backend().batch_norm_relu_sums(sums, none, none, Tensor(), draw.f32({2, 7}, 2));
    return std::vector<Tensor>{sums};
  });
}

TEST_F(GpuResNetKernel, PoolsWindowsAndMakesAMeanToken) {
  for (const int64_t width : {1, 7, 8, 33}) {
    for (const Accumulate to : kBoth) {
      expect_same(concat("width ", width), [&](const Draw& draw) {
        const Shape map = {2, 4, 6, width}, means = {2, 2, 2, width};
        Tensor y = draw.activation_output(means, Accumulate::kNo),
               dx = draw.activation_output(map, to),
               tokens = draw.activation_output({2 * 25, width}, Accumulate::kNo),
               dmap = draw.activation_output(map, to),
               dpositions = draw.f32_output({25, width}, to), none;
        Backend& backend = y.backend();
        backend.avg_pool_forward(y, draw.activation(map, 1));
        backend.avg_pool_backward(dx, draw.activation(means, 2), to);
        backend.mean_token_forward(tokens, draw.activation(map, 1),
                                   draw.activation({25, width}, 3));
        const Tensor dy = draw.activation({2 * 25, width}, 4);
        backend.mean_token_backward(dmap, none, dy, to, to);
        backend.mean_token_backward(none, dpositions, dy, to, to);
        return std::vector<Tensor>{y, dx, tokens, dmap, dpositions};
      });
    }
  }
}

}  // namespace
}  // namespace clip
