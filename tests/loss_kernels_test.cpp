// The contrastive loss's tiles and the reductions on the CPU against plain F64 loops.
#include <algorithm>
#include <bit>

#include "tests/kernel_checks.h"

namespace clip {
namespace {

/// Rows [first_row, first_row + rows) of a G x G matrix of cosines.
struct LossCase {
  int64_t rows, columns, first_row;
  double logit_scale = std::log(100.0);
  Doubles cosines, column_lse;

  LossCase(int64_t n, int64_t g, int64_t first)
      : rows(n),
        columns(g),
        first_row(first),
        cosines(random_values(n * g, 1, -1, 1)),
        column_lse(random_values(g, 2, 100, 104)) {
    logit_scale = static_cast<double>(static_cast<float>(logit_scale));
  }
  double scale() const { return std::exp(logit_scale); }
  double logit(int64_t row, int64_t column) const {
    return scale() * cosines[static_cast<size_t>(row * columns + column)];
  }
  Doubles log_sum_exps() const {
    Doubles result;
    for (int64_t row = 0; row < rows; ++row) {
      double maximum = logit(row, 0), total = 0;
      for (int64_t c = 0; c < columns; ++c) maximum = std::max(maximum, logit(row, c));
      for (int64_t c = 0; c < columns; ++c) total += std::exp(logit(row, c) - maximum);
      result.push_back(maximum + std::log(total));
    }
    return result;
  }
  /// Columns [begin, end) of all rows.
  template <class T>
  Tensor tile(int64_t begin, int64_t end) const {
    Doubles part;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t c = begin; c < end; ++c) {
        part.push_back(cosines[static_cast<size_t>(row * columns + c)]);
      }
    return tensor_of<T>({rows, end - begin}, part);
  }
  template <class Body>
  void for_tiles(int64_t tile_columns, const Body& body) const {
    for (int64_t begin = 0; begin < columns; begin += tile_columns) {
      body(begin, std::min(begin + tile_columns, columns));
    }
  }
};

// Logits reach 100: their rounding, 100 roundings of 1, is what the exponentials see.
template <class T>
constexpr double kLogitRoundings = 200 * static_cast<double>(std::numeric_limits<T>::epsilon());

template <class T>
void check_tiled_forward(int64_t tile_columns) {
  const LossCase in(31, 100, 40);
  Tensor row_max = output<T>({in.rows}).tensor, row_sum = output<T>({in.rows}).tensor;
  Output diagonal = output<T>({in.rows}), lse = output<T>({in.rows});
  in.for_tiles(tile_columns, [&](int64_t begin, int64_t end) {
    cpu_backend().clip_loss_tile_forward(row_max, row_sum, diagonal.tensor, in.tile<T>(begin, end),
                                         tensor_of<T>({}, {in.logit_scale}), in.first_row, begin,
                                         begin == 0 ? Accumulate::kNo : Accumulate::kYes);
  });
  cpu_backend().clip_loss_log_sum_exp(lse.tensor, row_max, row_sum);
  Doubles pairs;
  for (int64_t row = 0; row < in.rows; ++row) pairs.push_back(in.logit(row, in.first_row + row));
  lse.expect(in.log_sum_exps(), roundings<T>(4), "log_sum_exp");
  diagonal.expect(pairs, roundings<T>(4), "diagonal");
}

TEST(ClipLossKernel, FoldsTilesOfAnyWidthIntoTheLogSumExps) {
  for (const int64_t tile_columns : {1, 7, 33, 100, 4096}) {
    SCOPED_TRACE(tile_columns);
    check_tiled_forward<float>(tile_columns);
    check_tiled_forward<double>(tile_columns);
  }
}

template <class T>
void check_tiled_backward(int64_t tile_columns) {
  const LossCase in(31, 100, 40);
  const double dloss = 0.75, factor = dloss * in.scale() / (2.0 * 100);
  const Doubles row_lse = in.log_sum_exps();
  Output dots = output<T>({in.rows}), added_dots = output<T>({in.rows}, Accumulate::kYes);
  Doubles expected_dots(static_cast<size_t>(in.rows));
  in.for_tiles(tile_columns, [&](int64_t begin, int64_t end) {
    Doubles gradients;
    for (int64_t row = 0; row < in.rows; ++row)
      for (int64_t c = begin; c < end; ++c) {
        const double z = std::exp(in.logit(row, c) - row_lse[static_cast<size_t>(row)]) +
                         std::exp(in.logit(row, c) - in.column_lse[static_cast<size_t>(c)]) -
                         (c == in.first_row + row ? 2.0 : 0.0);
        gradients.push_back(factor * z);
        expected_dots[static_cast<size_t>(row)] += factor * z * in.logit(row, c) / in.scale();
      }
    const auto run = [&](Tensor row_dots, Accumulate to) {
      Tensor tile = in.tile<T>(begin, end);
      cpu_backend().clip_loss_tile_backward(
          tile, row_dots, tensor_of<T>({in.rows}, row_lse),
          tensor_of<T>({in.columns}, in.column_lse).slice(begin, end),
          tensor_of<T>({}, {in.logit_scale}), tensor_of<T>({}, {dloss}), in.first_row, begin, 100,
          to);
      expect_near(tile, gradients, kLogitRoundings<T>, "gradient");
    };
    run(dots.tensor, begin == 0 ? Accumulate::kNo : Accumulate::kYes);
    run(added_dots.tensor, Accumulate::kYes);
    run({}, Accumulate::kNo);
  });
  dots.expect(expected_dots, 4 * kLogitRoundings<T>, "row_dots");
  added_dots.expect(expected_dots, 4 * kLogitRoundings<T>, "row_dots added");
}

TEST(ClipLossKernel, TurnsTilesIntoGradients) {
  for (const int64_t tile_columns : {1, 7, 33, 4096}) {
    SCOPED_TRACE(tile_columns);
    check_tiled_backward<float>(tile_columns);
    check_tiled_backward<double>(tile_columns);
  }
}

TEST(ClipLossKernel, ReducesToTheShareOfThisRank) {
  const Doubles image = random_values(600, 1), text = random_values(600, 2),
                pairs = random_values(600, 3);
  double expected = 0;
  for (size_t i = 0; i < 600; ++i) expected += (image[i] + text[i] - 2 * pairs[i]) / 3600;
  Output loss = output<float>({});
  cpu_backend().clip_loss_reduce(loss.tensor, tensor_of<float>({600}, image),
                                 tensor_of<float>({600}, text), tensor_of<float>({600}, pairs),
                                 1800);
  loss.expect({expected}, roundings<float>(1), "loss");  // summed in F64, rounded once
}

TEST(ClipLossKernel, CarriesANanFromACosineToTheLogSumExp) {
  Doubles cosines(40, 0.5);
  cosines[11] = std::numeric_limits<double>::quiet_NaN();
  Tensor row_max = output<float>({2}).tensor, row_sum = output<float>({2}).tensor,
         diagonal = output<float>({2}).tensor, lse = output<float>({2}).tensor;
  cpu_backend().clip_loss_tile_forward(row_max, row_sum, diagonal,
                                       tensor_of<float>({2, 20}, cosines),
                                       tensor_of<float>({}, {1.0}), 0, 0, Accumulate::kNo);
  cpu_backend().clip_loss_log_sum_exp(lse, row_max, row_sum);
  EXPECT_TRUE(std::isnan(to_doubles(lse)[0]));
  EXPECT_FALSE(std::isnan(to_doubles(lse)[1]));
}

double plain_softplus(double x) {
  return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}

/// Forward and backward over tiles of a G x G matrix of cosines, logits from -50 to 30.
template <class T>
void check_sigmoid_tiles(int64_t tile_columns) {
  LossCase in(31, 100, 40);
  in.logit_scale = static_cast<double>(static_cast<float>(std::log(40.0)));
  const double bias = -10, dloss = 0.75, global_rows = 100;
  const Tensor scale_tensor = tensor_of<T>({}, {in.logit_scale}),
               bias_tensor = tensor_of<T>({}, {bias}), dloss_tensor = tensor_of<T>({}, {dloss});
  // A logit of 50 is off by some roundings of it, and its exponential by as much.
  const double tolerance = roundings<T>(200);
  for (const Accumulate to : {Accumulate::kNo, Accumulate::kYes}) {
    Output losses = output<T>({in.rows}, to), dots = output<T>({in.rows}, to),
           sums = output<T>({in.rows}, to);
    Doubles row_losses(static_cast<size_t>(in.rows)), row_dots = row_losses, row_sums = row_losses;
    in.for_tiles(tile_columns, [&](int64_t begin, int64_t end) {
      Doubles gradients;
      for (int64_t row = 0; row < in.rows; ++row)
        for (int64_t c = begin; c < end; ++c) {
          const size_t r = static_cast<size_t>(row);
          const double z = c == in.first_row + row ? 1 : -1, logit = in.logit(row, c) + bias;
          const double gradient = -dloss * z / (1 + std::exp(z * logit)) / global_rows;
          row_losses[r] += plain_softplus(-z * logit) / global_rows;
          row_sums[r] += gradient;
          row_dots[r] += gradient * in.logit(row, c);
          gradients.push_back(in.scale() * gradient);
        }
      Tensor tile = in.tile<T>(begin, end), without = in.tile<T>(begin, end), none;
      const Accumulate later = begin == 0 ? to : Accumulate::kYes;
      cpu_backend().siglip_loss_tile_forward(losses.tensor, tile, scale_tensor, bias_tensor,
                                             in.first_row, begin, 100, later);
      cpu_backend().siglip_loss_tile_backward(tile, dots.tensor, sums.tensor, scale_tensor,
                                              bias_tensor, dloss_tensor, in.first_row, begin, 100,
                                              later);
      cpu_backend().siglip_loss_tile_backward(without, none, none, scale_tensor, bias_tensor,
                                              dloss_tensor, in.first_row, begin, 100, later);
      expect_near(tile, gradients, tolerance, "gradient");
      expect_near(without, gradients, tolerance, "gradient without sums");
    });
    losses.expect(row_losses, tolerance, "row_losses");
    dots.expect(row_dots, tolerance, "row_dots");
    sums.expect(row_sums, tolerance, "row_sums");
  }
}

TEST(SiglipLossKernel, TurnsTilesOfAnyWidthIntoLossesAndGradients) {
  for (const int64_t tile_columns : {1, 7, 33, 100, 4096}) {
    SCOPED_TRACE(tile_columns);
    check_sigmoid_tiles<float>(tile_columns);
    check_sigmoid_tiles<double>(tile_columns);
  }
}

TEST(SiglipLossKernel, StaysFiniteWhereTheExponentialsDoNotAndCarriesANan) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Tensor losses = output<float>({3}).tensor;
  cpu_backend().siglip_loss_tile_forward(losses, tensor_of<float>({3, 2}, {1, -1, 1, -1, nan, 0}),
                                         tensor_of<float>({}, {8.0}), tensor_of<float>({}, {0.0}),
                                         0, 0, 1, Accumulate::kNo);
  const double scale = std::exp(8.0);  // e^2981 does not fit
  // Row 0's pair is column 0 and fits; row 1's is column 1, and both its columns are wrong.
  expect_near(losses.slice(0, 2), {0, 2 * scale}, roundings<float>(4), "losses");
  EXPECT_TRUE(std::isnan(to_doubles(losses)[2]));
}

TEST(ReduceKernels, SumAndSumOfSquaresMatchPlainLoops) {
  for (const int64_t count : {1, 33, 16384, 16385, 70000}) {
    const Doubles x = random_values(count, 1);
    double sum = 0, squares = 0;
    for (const double value : x) {
      sum += value;
      squares += value * value;
    }
    for (const Accumulate to : {Accumulate::kNo, Accumulate::kYes}) {
      Output total = output<float>({}, to);
      cpu_backend().sum(total.tensor, tensor_of<float>({count}, x), to);
      total.expect({sum}, roundings<float>(2), "sum");  // added in F64
    }
    Tensor total = output<double>({}).tensor;
    cpu_backend().sum_of_squares(total, tensor_of<float>({count}, x));
    expect_near(total, {squares}, 1e-12, "sum of squares");
    cpu_backend().sum_of_squares(total, tensor_of<double>({count}, x));
    expect_near(total, {squares}, 1e-12, "sum of squares");
  }
}

TEST(ReduceKernels, GiveTheSameBitsForAnyThreadCount) {
  const Tensor x = tensor_of<float>({100000}, random_values(100000, 1));
  expect_same_bits_for_any_thread_count([&] {
    Tensor sum = output<float>({}).tensor, squares = output<double>({}).tensor;
    cpu_backend().sum(sum, x, Accumulate::kNo);
    cpu_backend().sum_of_squares(squares, x);
    return std::vector<Tensor>{sum, squares};
  });
}

TEST(ReduceKernels, AddAddsElementByElement) {
  Output y = output<float>({20000}, Accumulate::kYes);
  const Doubles x = random_values(20000, 1);
  cpu_backend().add(y.tensor, tensor_of<float>({20000}, x));
  y.expect(x, roundings<float>(1), "y");
}

TEST(ReduceKernels, ClampKeepsValuesInTheirRangeAndNansVisible) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const auto& [value, expected] :
       std::vector<std::pair<double, double>>{{-1, 0}, {0, 0}, {2.5, 2.5}, {4.5, 4}, {1e30, 4}}) {
    Tensor x = tensor_of<float>({}, {value});
    cpu_backend().clamp(x, 0, 4);
    EXPECT_EQ(x.item(), expected);
  }
  Tensor x = tensor_of<float>({}, {nan});
  cpu_backend().clamp(x, 0, 4);
  EXPECT_TRUE(std::isnan(x.item()));
}

TEST(ConvertKernel, MovesBetweenF32AndF64) {
  const Doubles values = {1.0, -2.5, 0.1, 1e30, -0.0};
  Tensor f32 = output<float>({5}).tensor, f64 = output<double>({5}).tensor;
  cpu_backend().convert(f32, tensor_of<double>({5}, values));
  expect_near(f32, values, roundings<float>(1), "F32");
  cpu_backend().convert(f64, f32);
  EXPECT_EQ(to_doubles(f64), to_doubles(f32));
}

uint16_t bf16_bits(float value) {
  Tensor from = Tensor::from(cpu_backend(), {}, std::vector<float>{value});
  Tensor to = Tensor::empty(cpu_backend(), {}, DType::kBF16);
  cpu_backend().convert(to, from);
  uint16_t bits;
  to.copy_to_host(&bits);
  return bits;
}

TEST(ConvertKernel, RoundsToTheNearestBF16TiesToEven) {
  EXPECT_EQ(bf16_bits(1.0f), 0x3f80);
  EXPECT_EQ(bf16_bits(-2.0f), 0xc000);
  EXPECT_EQ(bf16_bits(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // a tie, even below
  EXPECT_EQ(bf16_bits(std::bit_cast<float>(0x3f818000u)), 0x3f82);  // a tie, even above
  EXPECT_EQ(bf16_bits(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(bf16_bits(std::bit_cast<float>(0x3f817fffu)), 0x3f81);
  EXPECT_EQ(bf16_bits(std::numeric_limits<float>::max()), 0x7f80);  // rounds to infinity
  EXPECT_EQ(bf16_bits(std::numeric_limits<float>::infinity()), 0x7f80);
  EXPECT_EQ(bf16_bits(std::bit_cast<float>(0x7f800001u)), 0x7fc0);  // stays a NaN
}

TEST(ConvertKernel, EveryBF16ComesBackFromF32AndF64Unchanged) {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  const Tensor from = Tensor::from_bytes(cpu_backend(), {65536}, DType::kBF16, all.data());
  for (const DType between : {DType::kF32, DType::kF64}) {
    Tensor wide = Tensor::empty(cpu_backend(), {65536}, between), back = Tensor::like(from);
    cpu_backend().convert(wide, from);
    cpu_backend().convert(back, wide);
    std::vector<uint16_t> result(65536);
    back.copy_to_host(result.data());
    for (size_t i = 0; i < all.size(); ++i) {
      const bool is_nan = (i & 0x7fff) > 0x7f80;
      ASSERT_EQ(result[i], is_nan ? (i | 0x40) : i);  // NaNs become quiet
    }
  }
}

}  // namespace
}  // namespace clip
