// Each GPU kernel against the CPU's: ragged sizes, results written and added, outputs that are not
// wanted, F32 and BF16 activations.
#include "tests/cuda_parity.h"

namespace clip {
namespace {

constexpr Accumulate kBoth[] = {Accumulate::kNo, Accumulate::kYes};

struct Size {
  int64_t rows, width;
};
// A row less and a row more than a warp or a segment of rows; widths below, at and off the 16-byte
// vectors, and RN50x4's 640.
const std::vector<Size> kSizes = {{1, 1},   {1, 640},  {31, 7},  {31, 33},  {33, 31},
                                  {33, 64}, {33, 640}, {257, 7}, {600, 33}, {256, 128}};

/// Tolerances relative to the largest number of a result. BF16 keeps 8 bits: one rounding of what a
/// kernel stores is 2^-9, and sums of stored numbers add some of them.
struct Precision {
  DType activations;
  double tolerance;
};
const Precision kF32 = {DType::kF32, 1e-5}, kBF16 = {DType::kBF16, 1e-2};

class GpuKernel : public OnGpu {
 protected:
  using Run = std::function<std::vector<Tensor>(const Draw&)>;

  void expect_same(const Precision& precision, const Run& run) {
    SCOPED_TRACE(name_of(precision.activations));
    expect_parity(gpu(), run, precision.activations, precision.tolerance);
  }
  /// run(draw, rows, width, accumulate) for all sizes, both precisions, written and added.
  template <class Body>
  void for_all_sizes(const Body& body) {
    for (const auto& [rows, width] : kSizes) {
      for (const Accumulate to : kBoth) {
        SCOPED_TRACE(concat("[", rows, ", ", width, "]", to == Accumulate::kYes ? ", added" : ""));
        for (const Precision& precision : {kF32, kBF16})
          expect_same(precision, [&, rows = rows, width = width](const Draw& draw) {
            return body(draw, rows, width, to);
          });
      }
    }
  }
};

TEST_F(GpuKernel, MatmulMultipliesEveryShapeAndTransposition) {
  struct Product {
    int64_t m, n, k;
  };
  for (const auto& [m, n, k] : {Product{1, 1, 1}, Product{31, 33, 7}, Product{33, 1, 640},
                                Product{64, 128, 32}, Product{5, 588, 16}, Product{8, 16, 588}}) {
    for (int variant = 0; variant < 8; ++variant) {
      const Transpose transpose_a = variant & 1 ? Transpose::kYes : Transpose::kNo;
      const Transpose transpose_b = variant & 2 ? Transpose::kYes : Transpose::kNo;
      const Accumulate to = variant & 4 ? Accumulate::kYes : Accumulate::kNo;
      SCOPED_TRACE(concat("m ", m, " n ", n, " k ", k, " variant ", variant));
      const auto run = [&, m = m, n = n, k = k](const Draw& draw) {
        const Tensor a =
            draw.activation(transpose_a == Transpose::kNo ? Shape{m, k} : Shape{k, m}, 1);
        const Tensor b =
            draw.activation(transpose_b == Transpose::kNo ? Shape{k, n} : Shape{n, k}, 2);
        Tensor activations = draw.activation_output({m, n}, to);
        Tensor gradients = draw.f32_output({m, n}, to);  // as a parameter's in mixed precision
        for (Tensor* c : {&activations, &gradients})
          draw.backend().matmul(*c, a, transpose_a, b, transpose_b,
                                {.alpha = 0.5, .accumulate = to});
        return std::vector<Tensor>{activations, gradients};
      };
      expect_same(kF32, run);
      expect_same(kBF16, run);
    }
  }
}

TEST_F(GpuKernel, MatmulTakesSlicesThatStartAnywhere) {
  for (const Precision& precision : {kF32, kBF16}) {
    expect_same(precision, [](const Draw& draw) {
      const Tensor a = draw.activation({9, 7}, 1).slice(1, 6);
      const Tensor b = draw.activation({8, 7}, 2).slice(3, 8);
      const Tensor whole = draw.activation_output({6, 5}, Accumulate::kYes);
      Tensor c = whole.slice(1, 6);
      draw.backend().matmul(c, a, Transpose::kNo, b, Transpose::kYes, {});
      return std::vector<Tensor>{whole};  // its first row must stay
    });
  }
}

TEST_F(GpuKernel, MatmulOfBf16WithF32RoundsTheF32Factor) {
  expect_same(kBF16, [](const Draw& draw) {
    const Tensor a = draw.f32({33, 16}, 1), b = draw.activation({16, 24}, 2);
    Tensor c = draw.activation_output({33, 24});
    draw.backend().matmul(c, a, Transpose::kNo, b, Transpose::kNo, {});
    return std::vector<Tensor>{c};
  });
}

TEST_F(GpuKernel, MatmulOverNothingIsZeroOrLeavesWhatIsThere) {
  for (const Accumulate to : kBoth) {
    expect_same(kF32, [&](const Draw& draw) {
      Tensor c = draw.f32_output({5, 3}, to);
      draw.backend().matmul(c, draw.f32({5, 0}, 1), Transpose::kNo, draw.f32({0, 3}, 2),
                            Transpose::kNo, {.accumulate = to});
      return std::vector<Tensor>{c};
    });
  }
}

TEST_F(GpuKernel, AddBiasAndColumnSums) {
  for_all_sizes([](const Draw& draw, int64_t rows, int64_t width, Accumulate to) {
    Tensor y = draw.activation({rows, width}, 1), sums = draw.f32_output({width}, to);
    draw.backend().column_sums(sums, y, to);
    draw.backend().add_bias(y, draw.activation({width}, 2));
    return std::vector<Tensor>{y, sums};
  });
}

TEST_F(GpuKernel, LayerNormForward) {
  for_all_sizes([](const Draw& draw, int64_t rows, int64_t width, Accumulate) {
    const Tensor x = draw.activation({rows, width}, 1), weight = draw.activation({width}, 2),
                 bias = draw.activation({width}, 3);
    Tensor y = draw.activation_output({rows, width}), mean = draw.f32_output({rows});
    Tensor rstd = draw.f32_output({rows}), alone = draw.activation_output({rows, width}), none;
    draw.backend().layer_norm_forward(y, mean, rstd, x, weight, bias, 1e-5);
    draw.backend().layer_norm_forward(alone, none, none, x, weight, bias, 1e-5);
    // One column: the variance is 0 but for roundings, and rstd 1 / sqrt(eps).
    return std::vector<Tensor>{y, mean, rstd, alone};
  });
}

// Rows above 2,048 do not fit a warp's registers. Of odd widths few rows are aligned.
TEST_F(GpuKernel, LayerNormsOfWideRows) {
  for (const int64_t width : {1030, 2048, 2049, 4096, 4097, 5000, 16384}) {
    SCOPED_TRACE(width);
    const auto run = [&](const Draw& draw) {
      const Tensor x = draw.activation({3, width}, 1), residual = draw.activation({3, width}, 2),
                   weight = draw.activation({width}, 3), bias = draw.activation({width}, 4);
      Tensor y = draw.activation_output({3, width}), mean = draw.f32_output({3}),
             rstd = Tensor::like(mean), dx = Tensor::like(y);
      Tensor dweight = draw.f32_output({width}), dbias = Tensor::like(dweight);
      Backend& backend = draw.backend();
      backend.layer_norm_forward(y, mean, rstd, x, weight, bias, 1e-5);
      backend.layer_norm_backward(dx, dweight, dbias, residual, x, mean, rstd, weight,
                                  Accumulate::kNo, Accumulate::kNo, Accumulate::kNo);
      Tensor sum = Tensor::like(y), y2 = Tensor::like(y), mean2 = Tensor::like(mean),
             rstd2 = Tensor::like(mean), dtotal = Tensor::like(y);
      Tensor dx_bias = Tensor::like(dweight), dweight2 = Tensor::like(dweight),
             dbias2 = Tensor::like(dweight);
      backend.bias_residual_layer_norm_forward(sum, y2, mean2, rstd2, residual, x, bias, weight,
                                               bias, 1e-5);
      backend.bias_residual_layer_norm_backward(dtotal, dx_bias, dweight2, dbias2, residual, x, sum,
                                                mean2, rstd2, weight, Accumulate::kNo,
                                                Accumulate::kNo, Accumulate::kNo);
      return std::vector<Tensor>{y,  mean,  rstd,  dx,     dweight, dbias,    sum,
                                 y2, mean2, rstd2, dtotal, dx_bias, dweight2, dbias2};
    };
    expect_same(kF32, run);
    expect_same(kBF16, run);
  }
}

TEST_F(GpuKernel, BiasResidualLayerNormForward) {
  for_all_sizes([](const Draw& draw, int64_t rows, int64_t width, Accumulate with_bias) {
    const Tensor residual = draw.activation({rows, width}, 1),
                 x = draw.activation({rows, width}, 2), weight = draw.activation({width}, 4),
                 bias = draw.activation({width}, 5);
    const Tensor x_bias = with_bias == Accumulate::kYes ? draw.activation({width}, 3) : Tensor();
    Tensor sum = draw.activation_output({rows, width}), y = Tensor::like(sum);
    Tensor mean = draw.f32_output({rows}), rstd = Tensor::like(mean), alone = Tensor::like(sum),
           none;
    draw.backend().bias_residual_layer_norm_forward(sum, y, mean, rstd, residual, x, x_bias, weight,
                                                    bias, 1e-5);
    draw.backend().bias_residual_layer_norm_forward(none, alone, none, none, residual, x, x_bias,
                                                    weight, bias, 1e-5);
    // A single column is normalised to its rounding error: only the sum can be compared.
    if (width == 1) return std::vector<Tensor>{sum};
    return std::vector<Tensor>{sum, y, mean, rstd, alone};
  });
}

/// Statistics as a forward kernel would leave them.
struct Statistics {
  Tensor mean, rstd;

  Statistics(const Draw& draw, int64_t rows)
      : mean(draw.f32({rows}, 21, 0.1)),
        rstd(Tensor::from<float>(draw.backend(), {rows},
                                 std::vector<float>(static_cast<size_t>(rows), 0.9f))) {}
};

TEST_F(GpuKernel, LayerNormBackward) {
  for_all_sizes([](const Draw& draw, int64_t rows, int64_t width, Accumulate to) {
    const Tensor dy = draw.activation({rows, width}, 1), x = draw.activation({rows, width}, 2),
                 weight = draw.activation({width}, 3);
    const Statistics s(draw, rows);
    Tensor dx = draw.activation_output({rows, width}, to), alone = dx.clone();
    Tensor dweight = draw.f32_output({width}, to), dbias = dweight.clone(), none;
    Tensor dweight_alone = dweight.clone();
    Backend& backend = draw.backend();
    backend.layer_norm_backward(dx, dweight, dbias, dy, x, s.mean, s.rstd, weight, to, to, to);
    backend.layer_norm_backward(alone, none, none, dy, x, s.mean, s.rstd, weight, to, to, to);
    backend.layer_norm_backward(none, dweight_alone, none, dy, x, s.mean, s.rstd, weight, to, to,
                                to);
    return std::vector<Tensor>{dx, dweight, dbias, alone, dweight_alone};
  });
}

TEST_F(GpuKernel, BiasResidualLayerNormBackward) {
  for_all_sizes([](const Draw& draw, int64_t rows, int64_t width, Accumulate to) {
    const Tensor dsum = draw.activation({rows, width}, 1), dy = draw.activation({rows, width}, 2),
                 sum = draw.activation({rows, width}, 3), weight = draw.activation({width}, 4);
    const Statistics s(draw, rows);
    Tensor dtotal = draw.activation_output({rows, width}), without = dtotal.clone();
    Tensor in_place = dsum.clone();  // dtotal may be dsum itself
    Tensor dx_bias = draw.f32_output({width}, to), dweight = dx_bias.clone(),
           dbias = dx_bias.clone();
    Tensor dx_bias_alone = dx_bias.clone(), none;
    Backend& backend = draw.backend();
    backend.bias_residual_layer_norm_backward(dtotal, dx_bias, dweight, dbias, dsum, dy, sum,
                                              s.mean, s.rstd, weight, to, to, to);
    backend.bias_residual_layer_norm_backward(without, none, none, none, {}, dy, sum, s.mean,
                                              s.rstd, weight, to, to, to);
    backend.bias_residual_layer_norm_backward(in_place, dx_bias_alone, none, none, in_place, dy,
                                              sum, s.mean, s.rstd, weight, to, to, to);
    return std::vector<Tensor>{dtotal, dx_bias, dweight, dbias, without, in_place, dx_bias_alone};
  });
}

TEST_F(GpuKernel, L2Normalize) {
  for (const auto& [rows, width] : kSizes) {
    for (const Accumulate to : kBoth) {
      SCOPED_TRACE(concat("[", rows, ", ", width, "]"));
      expect_same(kF32, [&, rows = rows, width = width](const Draw& draw) {
        const Tensor x = draw.f32({rows, width}, 1);
        Tensor y = draw.f32_output({rows, width}), inverse_norm = draw.f32_output({rows});
        Tensor dx = draw.f32_output({rows, width}, to);
        draw.backend().l2_normalize_forward(y, inverse_norm, x);
        draw.backend().l2_normalize_backward(dx, draw.f32({rows, width}, 2), y, inverse_norm, to);
        // In one dimension the gradient is 0 but for roundings, times the inverse of small norms.
        if (width == 1) return std::vector<Tensor>{y, inverse_norm};
        return std::vector<Tensor>{y, inverse_norm, dx};
      });
    }
  }
}

TEST_F(GpuKernel, L2NormalizeClampsTheNormOfARowOfZeros) {
  expect_same(kF32, [](const Draw& draw) {
    const Tensor x = Tensor::zeros(draw.backend(), {2, 33}, DType::kF32);
    Tensor y = draw.f32_output({2, 33}), inverse_norm = draw.f32_output({2}), dx = Tensor::like(y);
    draw.backend().l2_normalize_forward(y, inverse_norm, x);
    draw.backend().l2_normalize_backward(dx, draw.f32({2, 33}, 2), y, inverse_norm,
                                         Accumulate::kNo);
    return std::vector<Tensor>{y, inverse_norm, dx};
  });
}

TEST_F(GpuKernel, BiasGelu) {
  for (const Gelu kind : {Gelu::kQuick, Gelu::kErf}) {
    for_all_sizes([kind](const Draw& draw, int64_t rows, int64_t width, Accumulate to) {
      const Tensor x = draw.activation({rows, width}, 1, 3), bias = draw.activation({width}, 2),
                   dy = draw.activation({rows, width}, 3);
      Tensor y = draw.activation_output({rows, width});
      Tensor dx = draw.activation_output({rows, width}, to), alone = dx.clone();
      Tensor dbias = draw.f32_output({width}, to), dbias_alone = dbias.clone(), none;
      Tensor in_place = dy.clone();  // dx may be dy itself
      Backend& backend = draw.backend();
      backend.bias_gelu_forward(y, x, bias, kind);
      backend.bias_gelu_backward(dx, dbias, dy, x, bias, kind, to, to);
      backend.bias_gelu_backward(alone, none, dy, x, bias, kind, to, to);
      backend.bias_gelu_backward(none, dbias_alone, dy, x, bias, kind, to, to);
      backend.bias_gelu_backward(in_place, none, in_place, x, bias, kind, Accumulate::kNo, to);
      return std::vector<Tensor>{y, dx, dbias, alone, dbias_alone, in_place};
    });
  }
}

}  // namespace
}  // namespace clip
