// The small ViT CLIP against open_clip's values in reference/clip_reference.json.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/random.h"
#include "models/training.h"
#include "tests/reference_path.h"
#include "tests/tiny_clip.h"

namespace clip {
namespace {

const nlohmann::json& reference() {
  static const nlohmann::json values =
      nlohmann::json::parse(std::ifstream(reference_path("clip_reference.json")));
  return values;
}

void expect_near(const std::vector<double>& ours, const std::vector<double>& theirs,
                 double tolerance) {
  ASSERT_EQ(ours.size(), theirs.size());
  double largest = 0;
  for (double value : theirs) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < ours.size(); ++i)
    EXPECT_NEAR(ours[i], theirs[i], tolerance * largest) << "at " << i;
}

void expect_features(const char* kind, Gelu gelu, DType dtype, double tolerance) {
  ClipModel model(tiny_config(gelu), cpu_backend(), dtype);
  randomize(model.parameters);
  const auto& expected = reference()[kind];
  expect_near(to_doubles(model.clip.encode_image(tiny_images(0, cpu_backend())).value()),
              expected["image_features"], tolerance);
  expect_near(
      to_doubles(model.clip.encode_text(pack_tokens(tiny_captions(0), cpu_backend())).value()),
      expected["text_features"], tolerance);
}

TEST(ClipReference, FeaturesInF64EqualOpenClipsTo1e12) {
  expect_features("quick_gelu", Gelu::kQuick, DType::kF64, 1e-12);
  expect_features("gelu", Gelu::kErf, DType::kF64, 1e-12);
}

TEST(ClipReference, FeaturesInF32EqualOpenClipsTo1e5) {
  expect_features("quick_gelu", Gelu::kQuick, DType::kF32, 1e-5);
  expect_features("gelu", Gelu::kErf, DType::kF32, 1e-5);
}

TEST(ClipReference, EveryParametersGradientInF64EqualsOpenClipsTo1e9) {
  ClipModel model(tiny_config(), cpu_backend(), DType::kF64);
  randomize(model.parameters);
  model.parameters.allocate_training_state();
  Tape tape;
  const Variable loss = tiny_loss(model.clip, 0);
  EXPECT_NEAR(loss.value().item(), reference()["loss"].get<double>(), 1e-12);
  tape.backward(loss);
  const auto& gradients = reference()["gradients"];
  EXPECT_EQ(gradients.size(), model.parameters.parameters().size());
  for (const Parameter& parameter : model.parameters.parameters()) {
    ASSERT_TRUE(parameter.variable.has_grad()) << parameter.name;
    ASSERT_TRUE(gradients.contains(parameter.name)) << parameter.name;
    const auto gradient = to_doubles(parameter.variable.grad());
    const std::vector<double> expected = gradients[parameter.name];  // length, and two projections
    double squares = 0;
    for (double value : gradient) squares += value * value;
    const double length = std::sqrt(squares), tolerance = 1e-9 * std::max(expected[0], 1e-3);
    EXPECT_NEAR(length, expected[0], tolerance) << parameter.name;
    for (size_t k = 1; k < expected.size(); ++k) {
      Random random(1, random_stream(concat(parameter.name, ' ', k - 1)));
      double along = 0;
      for (double value : gradient) along += value * random.uniform(-1, 1);
      EXPECT_NEAR(along, expected[k], tolerance * std::sqrt(static_cast<double>(gradient.size())))
          << parameter.name;
    }
  }
}

void expect_training(DType dtype, double tolerance) {
  ClipModel model(tiny_config(), cpu_backend(), dtype);
  const std::vector<StepMetrics> steps = tiny_training(model);
  const auto& expected = reference()["training"];
  for (size_t step = 0; step < steps.size(); ++step) {
    EXPECT_NEAR(steps[step].loss(), expected["losses"][step].get<double>(), tolerance)
        << "step " << step;
    const double norm = expected["gradient_norms"][step];
    EXPECT_NEAR(steps[step].gradient_norm(), norm, 10 * tolerance * norm) << "step " << step;
  }
  EXPECT_NEAR(model.clip.logit_scale.value().item(), expected["logit_scale"].get<double>(),
              tolerance);
}

TEST(ClipReference, LossesOfTwentyStepsInF64EqualPyTorchsTo1e9) {
  expect_training(DType::kF64, 1e-9);
}

TEST(ClipReference, LossesOfTwentyStepsInF32EqualPyTorchsTo1e4) {
  expect_training(DType::kF32, 1e-4);
}

}  // namespace
}  // namespace clip
