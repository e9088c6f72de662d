// The small ViT CLIP against open_clip's values in reference/clip_reference.json.
#include <gtest/gtest.h>

#include "tests/reference_values.h"
#include "tests/tiny_clip.h"

namespace clip {
namespace {

const nlohmann::json& reference() {
  static const nlohmann::json values = reference_values("clip_reference.json");
  return values;
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
  expect_gradients(model.parameters, reference()["gradients"], 1e-9);
}

void expect_tiny_training(DType dtype, double tolerance) {
  ClipModel model(tiny_config(), cpu_backend(), dtype);
  expect_training(model, reference()["training"], tolerance);
}

TEST(ClipReference, LossesOfTwentyStepsInF64EqualPyTorchsTo1e9) {
  expect_tiny_training(DType::kF64, 1e-9);
}

TEST(ClipReference, LossesOfTwentyStepsInF32EqualPyTorchsTo1e4) {
  expect_tiny_training(DType::kF32, 1e-4);
}

}  // namespace
}  // namespace clip
