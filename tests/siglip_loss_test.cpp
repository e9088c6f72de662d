// The pairwise sigmoid loss where its value is known: in closed form, and from open_clip.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "autograd/ops.h"
#include "engine/random.h"
#include "tests/error_message.h"
#include "tests/op_cases.h"
#include "tests/reference_path.h"

namespace clip {
namespace {

Variable scalar(double value) {
  return Variable(Tensor::from<double>(cpu_backend(), {}, {value}), true);
}

Variable matrix(const Shape& shape, const std::vector<double>& values) {
  return Variable(Tensor::from<double>(cpu_backend(), shape, values), true);
}

double loss_of(const Variable& images, const Variable& texts, double scale, double bias,
               int64_t tile_columns = 4096) {
  const auto comm = make_single_communicator();
  return siglip_loss(images, texts, scalar(std::log(scale)), scalar(bias), *comm, tile_columns)
      .value()
      .item();
}

double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

constexpr double kTolerance = 1e-14;  // roundings of F64 numbers of up to 10

TEST(SiglipLoss, OfOnePairIsMinusTheLogarithmOfItsSigmoid) {
  const Variable unit = matrix({1, 2}, {0.6, 0.8});
  EXPECT_NEAR(loss_of(unit, unit, 10, -3), softplus(-7), kTolerance);
}

TEST(SiglipLoss, OfTwoPairsIsThatOfAMatchAndOfAMismatch) {
  // Each row has one match, of cosine 1, and one mismatch, of cosine c.
  const auto expected = [](double c, double t, double b) {
    return softplus(-t - b) + softplus(t * c + b);
  };
  const Variable orthogonal = matrix({2, 2}, {1, 0, 0, 1}), opposite = matrix({2, 1}, {1, -1});
  for (const double t : {1.0, 10.0})
    for (const double b : {-10.0, 0.5}) {
      EXPECT_NEAR(loss_of(orthogonal, orthogonal, t, b), expected(0, t, b), kTolerance);
      EXPECT_NEAR(loss_of(opposite, opposite, t, b), softplus(-t - b) + softplus(b - t),
                  kTolerance);
    }
}

TEST(SiglipLoss, OfPairsThatAreAllAlikeGrowsWithTheirNumber) {
  const Variable alike = matrix({7, 1}, std::vector<double>(7, 1));
  EXPECT_NEAR(loss_of(alike, alike, 2, -3), softplus(1) + 6 * softplus(-1), 7 * kTolerance);
}

std::vector<double> unit_rows(int64_t pairs, int64_t width, const std::string& name) {
  Random random(3, random_stream(name));
  std::vector<double> rows(static_cast<size_t>(pairs * width));
  for (double& value : rows) value = random.uniform(-1, 1);
  for (size_t row = 0; row < static_cast<size_t>(pairs); ++row) {
    double squares = 0;
    const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(row) * width;
    for (auto value = begin; value != begin + width; ++value) squares += *value * *value;
    for (auto value = begin; value != begin + width; ++value) *value /= std::sqrt(squares);
  }
  return rows;
}

void expect_gradient(const Variable& x, const std::vector<double>& expected, const char* what) {
  const auto gradient = x.grad().to_vector<double>();
  ASSERT_EQ(gradient.size(), expected.size()) << what;
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(gradient[i], expected[i], 1e-12) << what << " at " << i;
}

TEST(SiglipLoss, AndItsGradientsInF64EqualOpenClipsTo1e12) {
  const auto cases = nlohmann::json::parse(std::ifstream(reference_path("siglip_reference.json")));
  ASSERT_EQ(cases.size(), 3u);
  for (const auto& expected : cases) {
    const int64_t pairs = expected["pairs"], width = 8;
    const Variable images =
        matrix({pairs, width}, unit_rows(pairs, width, concat("images ", pairs)));
    const Variable texts = matrix({pairs, width}, unit_rows(pairs, width, concat("texts ", pairs)));
    const Variable scale = scalar(expected["logit_scale"]), bias = scalar(expected["logit_bias"]);
    const auto comm = make_single_communicator();
    Tape tape;
    const Variable loss = siglip_loss(images, texts, scale, bias, *comm, 4);
    EXPECT_NEAR(loss.value().item(), expected["loss"].get<double>(), 1e-12);
    tape.backward(loss);
    expect_gradient(images, expected["images"], "images");
    expect_gradient(texts, expected["texts"], "texts");
    expect_gradient(scale, {expected["dlogit_scale"].get<double>()}, "logit_scale");
    expect_gradient(bias, {expected["dlogit_bias"].get<double>()}, "logit_bias");
  }
}

TEST(SiglipLoss, InTilesOfAnyWidthIsTheSame) {
  const Variable images = matrix({53, 16}, unit_rows(53, 16, "images"));
  const Variable texts = matrix({53, 16}, unit_rows(53, 16, "texts"));
  const double expected = loss_of(images, texts, 100, -10);
  for (const int64_t tile : {1, 7, 52, 53})
    EXPECT_NEAR(loss_of(images, texts, 100, -10, tile), expected, 1e-12 * expected) << tile;
}

TEST(SiglipLoss, RejectsABiasThatIsNoScalarOfTheFeaturesType) {
  const Variable unit = matrix({1, 1}, {1});
  const Variable single(Tensor::from<float>(cpu_backend(), {}, {0.0f}));
  const auto comm = make_single_communicator();
  const std::string message =
      error_message([&] { siglip_loss(unit, unit, scalar(1), single, *comm); });
  EXPECT_TRUE(says(message, "[siglip_loss] logit_bias must be a scalar of dtype f64, got f32"))
      << message;
}

}  // namespace
}  // namespace clip
