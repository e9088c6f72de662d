// The model in BF16 against the model in F64 and F32: what rounding costs, and what it must not touch.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/reference_values.h"
#include "tests/tiny_clip.h"

namespace clip {
namespace {

/// Features of both towers, and the gradient of a step in the order of the parameters.
struct Outcome {
  std::vector<double> image, text, gradient;
};

Outcome run(DType dtype, const TowerOptions& towers = {}, int64_t micro_batches = 1,
            const ClipConfig& config = tiny_config()) {
  ClipModel model(config, cpu_backend(), dtype);
  const int64_t size = config.vision.image_size;
  model.clip.towers = towers;
  randomize(model.parameters);
  model.parameters.allocate_training_state();
  Outcome result;
  result.image = to_doubles(model.clip.encode_image(tiny_images(0, cpu_backend(), size)).value());
  result.text =
      to_doubles(model.clip.encode_text(pack_tokens(tiny_captions(0), cpu_backend())).value());
  std::vector<Batch> batches;
  for (int64_t step = 0; step < micro_batches; ++step)
    batches.push_back(
        {tiny_images(step, cpu_backend(), size), pack_tokens(tiny_captions(step), cpu_backend())});
  const auto comm = make_single_communicator();
  contrast_and_gradients(model, batches, *comm);
  result.gradient = to_doubles(model.parameters.gradients());
  return result;
}

double cosine(const std::vector<double>& a, const std::vector<double>& b) {
  double product = 0, squares_a = 0, squares_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    product += a[i] * b[i];
    squares_a += a[i] * a[i];
    squares_b += b[i] * b[i];
  }
  return product / std::sqrt(squares_a * squares_b);
}

TEST(MixedPrecision, FeaturesStayNearThoseOfF64) {
  const Outcome exact = run(DType::kF64), mixed = run(DType::kBF16);
  // Weights and about ten tensors on the way through two blocks are rounded by up to 2^-8 each;
  // such errors mostly cancel: six of them are allowed.
  expect_near(mixed.image, exact.image, 6 * 0x1p-8);
  expect_near(mixed.text, exact.text, 6 * 0x1p-8);
}

TEST(MixedPrecision, GradientsPointWhereThoseOfF64Do) {
  for (const int64_t micro_batches : {1, 2}) {
    const Outcome exact = run(DType::kF64, {}, micro_batches),
                  mixed = run(DType::kBF16, {}, micro_batches);
    EXPECT_GT(cosine(mixed.gradient, exact.gradient), 0.999) << micro_batches << " micro-batches";
  }
}

TEST(MixedPrecision, AResNetStaysNearThatOfF64) {
  const ClipConfig config = tiny_resnet_config();
  const Outcome exact = run(DType::kF64, {}, 1, config), mixed = run(DType::kBF16, {}, 1, config);
  // Some fifty tensors on the way are rounded by up to 2^-8 each; such errors mostly cancel.
  expect_near(mixed.image, exact.image, 6 * 0x1p-8);
  // Where rounding turns the sign of a sum, a ReLU lets another gradient through, in each of 18 layers;
  // this batch is too small for that to cancel.
  EXPECT_GT(cosine(mixed.gradient, exact.gradient), 0.8);
}

TEST(MixedPrecision, ALastBlockOfOneRowEqualsTheWholeBlockUpToRounding) {
  const Outcome one_row = run(DType::kBF16),
                whole = run(DType::kBF16, {.last_block = LastBlock::kAllRows});
  // The same sums, cut elsewhere: what rounds to another BF16 is a unit of 2^-7 off.
  expect_near(whole.image, one_row.image, 2 * 0x1p-8);
  expect_near(whole.text, one_row.text, 2 * 0x1p-8);
  EXPECT_GT(cosine(whole.gradient, one_row.gradient), 0.9999);
}

TEST(MixedPrecision, RecomputedActivationsGiveTheSameBits) {
  EXPECT_EQ(run(DType::kBF16, {.activations = Activations::kRecomputed}).gradient,
            run(DType::kBF16).gradient);
}

TEST(MixedPrecision, TwentyStepsFollowTheLossesOfF32) {
  ClipModel single(tiny_config(), cpu_backend()), mixed(tiny_config(), cpu_backend(), DType::kBF16);
  const auto expected = tiny_training(single), actual = tiny_training(mixed);
  for (size_t step = 0; step < expected.size(); ++step)
    // Cosines are off by some 2^-8 of 1 and stand under a scale of up to 8; the mean over the pairs
    // takes most of it away.
    EXPECT_NEAR(actual[step].loss(), expected[step].loss(), 2e-2) << "step " << step;
}

}  // namespace
}  // namespace clip
