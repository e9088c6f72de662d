// GPU kernels at the towers' ends, of the loss and of the optimizer, against the CPU's.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/cuda_parity.h"
#include "tests/doubles.h"

namespace clip {
namespace {

constexpr Accumulate kBoth[] = {Accumulate::kNo, Accumulate::kYes};
const std::vector<int64_t> kWidths = {1, 7, 33, 64, 640};

/// BF16 keeps 8 bits: one rounding of what is stored is 2^-9.
double tolerance_of(DType activations) { return activations == DType::kBF16 ? 1e-2 : 1e-5; }

class GpuTokenKernel : public OnGpu {
 protected:
  /// body(draw, width, accumulate) for all widths, both precisions, written and added.
  template <class Body>
  void for_all_widths(const Body& body) {
    for (const int64_t width : kWidths) {
      for (const Accumulate to : kBoth) {
        for (const DType activations : {DType::kF32, DType::kBF16}) {
          SCOPED_TRACE(concat("width ", width, to == Accumulate::kYes ? ", added, " : ", ",
                              name_of(activations)));
          expect_parity(
              gpu(), [&](const Draw& draw) { return body(draw, width, to); }, activations,
              tolerance_of(activations));
        }
      }
    }
  }
};

TEST_F(GpuTokenKernel, ExtractPatchesGivesTheSameBits) {
  const float mean[3] = {0.48f, 0.46f, 0.41f}, std[3] = {0.27f, 0.26f, 0.28f};
  for (const int64_t patch : {1, 3, 14, 32}) {
    const auto patches_on = [&](Backend& backend) {
      const Tensor images = Draw(backend, DType::kF32).bytes({2, 3 * patch, 3 * patch, 3}, 4);
      Tensor patches = Tensor::empty(backend, {18, 3 * patch * patch}, DType::kF32);
      backend.extract_patches(patches, images, patch, mean, std);
      return patches.to_vector<float>();
    };
    EXPECT_EQ(patches_on(gpu()), patches_on(cpu_backend())) << "patches of " << patch;
  }
}

TEST_F(GpuTokenKernel, AssembleTokens) {
  for (const int64_t images : {1, 5, 300}) {
    for_all_widths([images](const Draw& draw, int64_t width, Accumulate to) {
      const int64_t tokens = 5;
      const Tensor x = draw.activation({images * (tokens - 1), width}, 1),
                   class_token = draw.activation({width}, 2),
                   positions = draw.activation({tokens, width}, 3),
                   dy = draw.activation({images * tokens, width}, 4);
      Tensor y = draw.activation_output({images * tokens, width});
      Tensor dx = draw.activation_output(x.shape(), to), dx_alone = dx.clone(), none;
      Tensor dclass = draw.f32_output({width}, to), dclass_alone = dclass.clone();
      Tensor dpositions = draw.f32_output({tokens, width}, to), alone = dpositions.clone();
      Backend& backend = draw.backend();
      backend.assemble_tokens_forward(y, x, class_token, positions);
      backend.assemble_tokens_backward(dx, dclass, dpositions, dy, to, to, to);
      backend.assemble_tokens_backward(dx_alone, dclass_alone, none, dy, to, to, to);
      backend.assemble_tokens_backward(none, none, alone, dy, to, to, to);
      return std::vector<Tensor>{y, dx, dclass, dpositions, dx_alone, dclass_alone, alone};
    });
  }
}

/// Captions of 2 ... 12 tokens: all start with 3 and end with 8, so that these two make long runs;
/// token 7 is used often, others seldom or never.
struct Captions {
  std::vector<int32_t> tokens, offsets = {0}, order;

  explicit Captions(int count) {
    for (int caption = 0; caption < count; ++caption) {
      tokens.push_back(3);
      for (int i = 0; i < caption % 11; ++i) tokens.push_back(i % 3 == 0 ? 7 : (caption + i) % 40);
      tokens.push_back(8);
      offsets.push_back(static_cast<int32_t>(tokens.size()));
    }
    order.resize(tokens.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return tokens[static_cast<size_t>(a)] < tokens[static_cast<size_t>(b)];
    });
  }
};

TEST_F(GpuTokenKernel, TokenEmbedding) {
  for (const int count : {1, 16, 301}) {
    for_all_widths([count](const Draw& draw, int64_t width, Accumulate to) {
      const Captions captions(count);
      const int64_t rows = static_cast<int64_t>(captions.tokens.size());
      const Tensor tokens = draw.ints(captions.tokens), offsets = draw.ints(captions.offsets),
                   order = draw.ints(captions.order);
      const Tensor table = draw.activation({43, width}, 1),
                   positions = draw.activation({13, width}, 2),
                   dy = draw.activation({rows, width}, 3);
      Tensor y = draw.activation_output({rows, width}), none;
      Tensor dtable = draw.f32_output({43, width}, to), dtable_alone = dtable.clone();
      Tensor dpositions = draw.f32_output({13, width}, to), dpositions_alone = dpositions.clone();
      Backend& backend = draw.backend();
      backend.token_embedding_forward(y, table, positions, tokens, offsets);
      backend.token_embedding_backward(dtable, dpositions, dy, tokens, offsets, order, to, to);
      backend.token_embedding_backward(dtable_alone, none, dy, tokens, offsets, order, to, to);
      backend.token_embedding_backward(none, dpositions_alone, dy, tokens, offsets, order, to, to);
      return std::vector<Tensor>{y, dtable, dpositions, dtable_alone, dpositions_alone};
    });
  }
}

TEST_F(GpuTokenKernel, GatherRows) {
  for_all_widths([](const Draw& draw, int64_t width, Accumulate to) {
    const Tensor x = draw.activation({33, width}, 1), rows = draw.ints({32, 4, 0, 17, 9});
    Tensor y = draw.activation_output({5, width}), dx = draw.activation_output({33, width}, to);
    draw.backend().gather_rows_forward(y, x, rows);
    draw.backend().gather_rows_backward(dx, draw.activation({5, width}, 2), rows, to);
    return std::vector<Tensor>{y, dx};
  });
}

/// A tile of cosines [rows, its width], from column `first` on.
struct LossTile {
  Tensor cosines;
  int64_t first;
};

/// Local rows of a loss, the first of which is first_row of `columns`, the global batch.
struct LossCase {
  int64_t rows, columns, tile, first_row;

  std::vector<LossTile> tiles(const Draw& draw) const {
    std::vector<LossTile> all;
    for (int64_t first = 0; first < columns; first += tile) {
      const int64_t width = std::min(tile, columns - first);
      all.push_back({draw.f32({rows, width}, static_cast<uint64_t>(first), 0.2), first});
    }
    return all;
  }
};

/// Compares run(draw, case, how it starts its sums) on both devices.
template <class Run>
void expect_parity_of_loss(Backend& gpu, const Run& run) {
  for (const auto& c : {LossCase{1, 1, 1, 0}, LossCase{31, 31, 31, 0}, LossCase{33, 66, 10, 33},
                        LossCase{5, 1500, 1100, 1097}, LossCase{33, 640, 640, 7}}) {
    for (const Accumulate to : kBoth) {
      SCOPED_TRACE(concat(c.rows, " rows, ", c.columns, " columns in tiles of ", c.tile));
      expect_parity(gpu, [&](const Draw& draw) { return run(draw, c, to); });
    }
  }
}

TEST_F(GpuTokenKernel, ClipLossOverTilesForwardAndBackward) {
  expect_parity_of_loss(gpu(), [](const Draw& draw, const LossCase& c, Accumulate to) {
    Backend& backend = draw.backend();
    const Tensor logit_scale = Tensor::from<float>(backend, {}, {3.0f});
    const Tensor dloss = Tensor::from<float>(backend, {}, {0.7f});
    const Tensor column_lse = draw.f32({c.columns}, 500), text_lse = draw.f32({c.rows}, 501);
    Tensor row_max = draw.f32_output({c.rows}), row_sum = draw.f32_output({c.rows}),
           diagonal = draw.f32_output({c.rows}), lse = draw.f32_output({c.rows}),
           row_dots = draw.f32_output({c.rows}, to), loss = draw.f32_output({}), none;
    std::vector<LossTile> tiles = c.tiles(draw);
    for (const LossTile& tile : tiles)
      backend.clip_loss_tile_forward(row_max, row_sum, diagonal, tile.cosines, logit_scale,
                                     c.first_row, tile.first,
                                     tile.first == 0 ? Accumulate::kNo : Accumulate::kYes);
    backend.clip_loss_log_sum_exp(lse, row_max, row_sum);
    backend.clip_loss_reduce(loss, lse, text_lse, diagonal, c.columns);
    std::vector<Tensor> results = {row_max, row_sum, diagonal, lse, row_dots, loss};
    for (LossTile& tile : tiles) {
      const Tensor part = column_lse.slice(tile.first, tile.first + tile.cosines.width());
      Tensor without_dots = tile.cosines.clone();
      backend.clip_loss_tile_backward(tile.cosines, row_dots, lse, part, logit_scale, dloss,
                                      c.first_row, tile.first, c.columns,
                                      tile.first == 0 ? to : Accumulate::kYes);
      backend.clip_loss_tile_backward(without_dots, none, lse, part, logit_scale, dloss,
                                      c.first_row, tile.first, c.columns, Accumulate::kNo);
      results.push_back(tile.cosines);
      results.push_back(without_dots);
    }
    return results;
  });
}

TEST_F(GpuTokenKernel, SiglipLossOverTilesForwardAndBackward) {
  expect_parity_of_loss(gpu(), [](const Draw& draw, const LossCase& c, Accumulate to) {
    Backend& backend = draw.backend();
    const Tensor logit_scale = Tensor::from<float>(backend, {}, {2.3f});
    const Tensor logit_bias = Tensor::from<float>(backend, {}, {-3.0f});
    const Tensor dloss = Tensor::from<float>(backend, {}, {0.7f});
    Tensor losses = draw.f32_output({c.rows}, to), row_dots = draw.f32_output({c.rows}, to),
           row_sums = draw.f32_output({c.rows}, to), none;
    std::vector<Tensor> results = {losses, row_dots, row_sums};
    for (LossTile& tile : c.tiles(draw)) {
      Tensor without_sums = tile.cosines.clone();
      const Accumulate later = tile.first == 0 ? to : Accumulate::kYes;
      backend.siglip_loss_tile_forward(losses, tile.cosines, logit_scale, logit_bias, c.first_row,
                                       tile.first, c.columns, later);
      backend.siglip_loss_tile_backward(tile.cosines, row_dots, row_sums, logit_scale, logit_bias,
                                        dloss, c.first_row, tile.first, c.columns, later);
      backend.siglip_loss_tile_backward(without_sums, none, none, logit_scale, logit_bias, dloss,
                                        c.first_row, tile.first, c.columns, later);
      results.push_back(tile.cosines);
      results.push_back(without_sums);
    }
    return results;
  });
}

TEST_F(GpuTokenKernel, SumsOverEverything) {
  for (const int64_t count : {1, 33, 640, 16384, 40001}) {
    for (const DType activations : {DType::kF32, DType::kBF16}) {
      SCOPED_TRACE(concat(count, " ", name_of(activations)));
      expect_parity(
          gpu(),
          [&](const Draw& draw) {
            const Tensor x = draw.activation({count}, 1), f32 = draw.f32({count}, 2);
            Tensor squares = Tensor::empty(draw.backend(), {}, DType::kF64);
            Tensor total = draw.f32_output({}), added = draw.f32_output({}, Accumulate::kYes);
            draw.backend().sum_of_squares(squares, x);
            draw.backend().sum(total, f32, Accumulate::kNo);
            draw.backend().sum(added, f32, Accumulate::kYes);
            return std::vector<Tensor>{squares, total, added};
          },
          activations);  // both devices add the same stored numbers in F64
    }
  }
}

TEST_F(GpuTokenKernel, ElementwiseKernelsAndCopies) {
  for (const int64_t count : {1, 31, 33, 2049}) {
    for (const DType activations : {DType::kF32, DType::kBF16}) {
      expect_parity(
          gpu(),
          [&](const Draw& draw) {
            Backend& backend = draw.backend();
            Tensor y = draw.activation({count}, 1), zero = draw.f32_output({count});
            const Tensor wider = draw.activation({count + 1}, 2);
            backend.add(y, wider.slice(1, count + 1));  // starts off a 16-byte boundary
            backend.fill_zero(zero);
            Tensor f64 = Tensor::empty(backend, {count}, DType::kF64), f32 = Tensor::like(zero);
            backend.convert(f64, y);
            backend.convert(f32, f64);
            Tensor copy = Tensor::like(f32);
            backend.copy(copy, f32);
            return std::vector<Tensor>{y, zero, f64, copy};
          },
          activations, tolerance_of(activations));
    }
  }
}

TEST_F(GpuTokenKernel, ConvertRoundsToTheSameBf16) {
  const auto bits_on = [](Backend& backend) {
    const Tensor x = Draw(backend, DType::kF32).f32({5000}, 1, 1e10);
    std::vector<uint16_t> bits(5000);
    x.as_dtype(DType::kBF16).copy_to_host(bits.data());
    return bits;
  };
  EXPECT_EQ(bits_on(gpu()), bits_on(cpu_backend()));
}

TEST_F(GpuTokenKernel, ClampKeepsNaN) {
  for (const float value : {-1.0f, 2.0f, 5.0f, std::numeric_limits<float>::quiet_NaN()}) {
    Tensor x = Tensor::from<float>(gpu(), {}, {value});
    gpu().clamp(x, 0, 4.6);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(x.item()));
    } else {
      EXPECT_EQ(x.item(), std::min(std::max(value, 0.0f), 4.6f));
    }
  }
}

/// Three steps, the second one skipped.
std::vector<Tensor> adamw_steps(const Draw& draw, Tensor copy) {
  const Shape shape = {3 * kParameterBlock};
  Backend& backend = draw.backend();
  Tensor values = draw.f32(shape, 1), first = draw.f32(shape, 2, 0.1);
  Tensor second = Tensor::zeros(backend, shape, DType::kF32);
  Tensor scalars = Tensor::zeros(backend, {kAdamWScalars}, DType::kF64);
  const Tensor decays = Tensor::from<uint8_t>(backend, {3}, {1, 0, 1});
  uint64_t stream = 10;
  for (const double sum : {9.0, std::numeric_limits<double>::infinity(), 0.01}) {
    const AdamWOptions options{.lr = 0.01, .max_norm = 0.5};
    backend.adamw_scalars(scalars, Tensor::from<double>(backend, {}, {sum}), options);
    backend.adamw(values, copy, first, second, draw.f32(shape, stream++), decays, scalars, options);
  }
  return {values, first, second, scalars.as_dtype(DType::kF32)};
}

TEST_F(GpuTokenKernel, AdamW) {
  expect_parity(gpu(), [](const Draw& draw) { return adamw_steps(draw, {}); });
}

TEST_F(GpuTokenKernel, AdamWRoundsTheNewValuesIntoTheirBF16Copy) {
  Tensor copy = Tensor::empty(gpu(), {3 * kParameterBlock}, DType::kBF16);
  const Tensor values = adamw_steps(Draw(gpu(), DType::kF32), copy)[0];
  EXPECT_EQ(to_doubles(copy), to_doubles(values.as_dtype(DType::kBF16)));
}

TEST_F(GpuTokenKernel, CopiesLargerThanTheStagingMemoryArriveWhole) {
  std::vector<int32_t> numbers((40 << 20) / sizeof(int32_t) + 3);
  std::iota(numbers.begin(), numbers.end(), 0);
  const Tensor there =
      Tensor::from<int32_t>(gpu(), {static_cast<int64_t>(numbers.size())}, numbers);
  EXPECT_EQ(there.to_vector<int32_t>(), numbers);
}

TEST_F(GpuTokenKernel, RefusesToComputeInF64) {
  Tensor x = Tensor::zeros(gpu(), {4, 4}, DType::kF64);
  const Tensor bias = Tensor::zeros(gpu(), {4}, DType::kF64);
  EXPECT_THROW(gpu().add_bias(x, bias), Error);
  EXPECT_THROW(gpu().matmul(x, x, Transpose::kNo, x, Transpose::kNo, {}), Error);
}

}  // namespace
}  // namespace clip
