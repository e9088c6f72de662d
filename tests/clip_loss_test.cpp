// The contrastive loss where its value is known in closed form.
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/ops.h"
#include "autograd/optimizer.h"
#include "tests/op_cases.h"

namespace clip {
namespace {

/// `copies` rows of each of `count` unit vectors that are free to move.
struct FreeVectors {
  FreeVectors(int64_t count, int64_t width, int64_t copies)
      : vectors(Variable::parameter({width, count})) {
    std::vector<double> selection(static_cast<size_t>(copies * count * count), 0.0);
    for (int64_t row = 0; row < copies * count; ++row)
      selection[static_cast<size_t>(row * count + row % count)] = 1;
    select = Variable(Tensor::from<double>(cpu_backend(), {copies * count, count}, selection));
  }
  Variable operator()() const { return l2_normalize(linear(select, vectors)); }

  Variable select;   // [copies count, count]
  Variable vectors;  // [E, count]
};

/// The loss after AdamW has moved `count` free pairs, each `copies` times in the batch, as far as it can.
double least_loss(int64_t count, double scale, int64_t copies) {
  const FreeVectors images(count, count, copies), texts(count, count, copies);
  ParameterList list;
  list.add("images", images.vectors);
  list.add("texts", texts.vectors);
  list.allocate(cpu_backend(), DType::kF64);
  for (const Parameter& parameter : list.parameters()) {
    Tensor value = parameter.variable.value();
    cpu_backend().copy(value, random_tensor(value.shape(), DType::kF64, cpu_backend(), 11,
                                            static_cast<uint64_t>(parameter.offset)));
  }
  AdamW optimizer(list, {.beta2 = 0.99, .eps = 1e-12, .weight_decay = 0});
  const Variable logit_scale(Tensor::from<double>(cpu_backend(), {}, {std::log(scale)}));
  const auto comm = make_single_communicator();
  const int64_t steps = 2000;
  const LearningRate lr{.lr = 0.2, .total_steps = steps};
  double value = 0;
  for (int64_t step = 0; step < steps; ++step) {
    Tape tape;
    const Variable loss = clip_loss(images(), texts(), logit_scale, *comm);
    value = loss.value().item();
    tape.backward(loss);
    optimizer.step(lr.at(step));
  }
  return value;
}

/// All cosines of other pairs are -1 / (N - 1) where the vectors are the corners of a simplex.
double simplex_loss(int64_t count, double scale) {
  const double n = static_cast<double>(count);
  return std::log(1 + (n - 1) * std::exp(-scale * n / (n - 1)));
}

TEST(ClipLoss, FreeVectorsReachTheLossOfASimplex) {
  for (int64_t count : {2, 3, 8})
    for (double scale : {1.0, 5.0})
      EXPECT_NEAR(least_loss(count, scale, 1), simplex_loss(count, scale), 1e-6)
          << count << " pairs, scale " << scale;
}

TEST(ClipLoss, CopiesOfEveryPairCostTheirLogarithm) {
  for (int64_t copies : {2, 3})
    EXPECT_NEAR(least_loss(4, 5.0, copies),
                simplex_loss(4, 5.0) + std::log(static_cast<double>(copies)), 1e-6);
}

Variable unit_rows(int64_t count, int64_t width, uint64_t seed, DType dtype) {
  return l2_normalize(Variable(random_tensor({count, width}, dtype, cpu_backend(), seed, 0)));
}

double loss_of(int64_t count, int64_t width, double scale, DType dtype, int64_t tile) {
  const auto comm = make_single_communicator();
  Tensor logit_scale = Tensor::empty(cpu_backend(), {}, dtype);
  cpu_backend().convert(logit_scale, Tensor::from<double>(cpu_backend(), {}, {std::log(scale)}));
  return clip_loss(unit_rows(count, width, 1, dtype), unit_rows(count, width, 2, dtype),
                   Variable(logit_scale), *comm, tile)
      .value()
      .item();
}

/// Mean of both cross-entropies, from the whole matrix of logits.
double dense_loss(int64_t count, int64_t width, double scale) {
  const auto images = unit_rows(count, width, 1, DType::kF64).value().to_vector<double>();
  const auto texts = unit_rows(count, width, 2, DType::kF64).value().to_vector<double>();
  const auto logit = [&](int64_t i, int64_t j) {
    double dot = 0;
    for (int64_t k = 0; k < width; ++k)
      dot += images[static_cast<size_t>(i * width + k)] * texts[static_cast<size_t>(j * width + k)];
    return scale * dot;
  };
  double total = 0;
  for (int64_t i = 0; i < count; ++i) {
    double row = 0, column = 0;
    for (int64_t j = 0; j < count; ++j) {
      row += std::exp(logit(i, j) - scale);
      column += std::exp(logit(j, i) - scale);
    }
    total += std::log(row) + std::log(column) + 2 * scale - 2 * logit(i, i);
  }
  return total / static_cast<double>(2 * count);
}

TEST(ClipLoss, EqualsTheDenseLossInTilesOfAnyWidthAtScale100) {
  const double expected = dense_loss(53, 16, 100);
  for (int64_t tile : {1, 7, 52, 53, 4096}) {
    EXPECT_NEAR(loss_of(53, 16, 100, DType::kF64, tile), expected, 1e-12 * expected)
        << "tile " << tile;
    EXPECT_NEAR(loss_of(53, 16, 100, DType::kF32, tile), expected, 2e-5 * expected)
        << "tile " << tile;  // 100 x 1e-7
  }
}

TEST(ClipLoss, RejectsFeaturesOfDifferentShapes) {
  const auto comm = make_single_communicator();
  const Variable scale(Tensor::from<double>(cpu_backend(), {}, {1.0}));
  try {
    clip_loss(unit_rows(3, 4, 1, DType::kF64), unit_rows(2, 4, 1, DType::kF64), scale, *comm);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("[3, 4] and f64 [2, 4]"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace clip
