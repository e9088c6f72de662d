// Patch dropout: how many patches stay, which ones, and what the tower makes of them.
#include "models/patch_dropout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "tests/tiny_clip.h"

namespace clip {
namespace {

TEST(PatchDropout, KeepsAsManyPatchesAsOpenClip) {
  const auto count = [](int64_t patches, double share) {
    return kept_patches(patches, share, 0, 0).size();
  };
  EXPECT_EQ(count(49, 0.5), 24u);
  EXPECT_EQ(count(196, 0.75), 49u);
  EXPECT_EQ(count(9, 0.4), 5u);
  EXPECT_EQ(count(9, 0.99), 1u);
  EXPECT_EQ(count(9, 0), 9u);
  EXPECT_THROW(kept_patches(9, 1, 0, 0), Error);
}

TEST(PatchDropout, KeepsDifferentPatchesInAscendingOrder) {
  std::set<std::vector<int32_t>> draws;
  for (int64_t position = 0; position < 50; ++position) {
    const auto kept = kept_patches(49, 0.5, 3, position);
    EXPECT_EQ(std::adjacent_find(kept.begin(), kept.end(), std::greater_equal<>()), kept.end());
    EXPECT_GE(kept.front(), 0);
    EXPECT_LT(kept.back(), 49);
    EXPECT_EQ(kept, kept_patches(49, 0.5, 3, position));
    EXPECT_NE(kept, kept_patches(49, 0.5, 4, position));
    draws.insert(kept);
  }
  EXPECT_EQ(draws.size(), 50u);
}

TEST(PatchDropout, KeepsEverySetOfPatchesEquallyOften) {
  std::map<std::vector<int32_t>, int64_t> times;
  const int64_t draws = 20'000;
  for (int64_t position = 0; position < draws; ++position)
    ++times[kept_patches(5, 0.6, 1, position)];  // 2 of 5
  ASSERT_EQ(times.size(), 10u);
  // 2000 each, standard deviation 42: five of them.
  for (const auto& [kept, count] : times) EXPECT_NEAR(static_cast<double>(count), 2000, 212);
}

/// The tower on the rows that are named.
std::vector<double> features(const ClipModel& model, const Tensor& kept) {
  return to_doubles(model.clip.encode_image(tiny_images(0, cpu_backend()), kept).value());
}

TEST(PatchDropout, OfNothingChangesNoBit) {
  ClipModel model(tiny_config(), cpu_backend(), DType::kF64);
  randomize(model.parameters);
  std::vector<Batch> batches = {
      {tiny_images(0, cpu_backend()), pack_tokens(tiny_captions(0), cpu_backend())}};
  drop_patches(batches, 9, 0, 1, 0);
  EXPECT_EQ(batches[0].kept_tokens.numel(), kTinyPairs * 10);
  EXPECT_EQ(features(model, batches[0].kept_tokens), features(model, {}));
}

TEST(PatchDropout, LeavesAFeatureThatDroppedPixelsDoNotChange) {
  ClipModel model(tiny_config(), cpu_backend(), DType::kF64);
  randomize(model.parameters);
  const std::vector<int32_t> kept = kept_patches(9, 0.4, 5, 11);
  std::vector<int32_t> rows = {0};
  for (const int32_t patch : kept) rows.push_back(patch + 1);
  const Tensor kept_tokens = Tensor::from<int32_t>(cpu_backend(), {6}, rows);
  std::vector<uint8_t> pixels(24 * 24 * 3, 100);
  const auto encoded = [&] {
    const Tensor image = Tensor::from<uint8_t>(cpu_backend(), {1, 24, 24, 3}, pixels);
    return to_doubles(model.clip.encode_image(image, kept_tokens).value());
  };
  const auto before = encoded();
  for (size_t i = 0; i < pixels.size(); ++i) {
    const auto x = static_cast<int32_t>(i / 3 % 24), y = static_cast<int32_t>(i / 72);
    if (std::find(kept.begin(), kept.end(), y / 8 * 3 + x / 8) == kept.end()) pixels[i] = 7;
  }
  EXPECT_EQ(encoded(), before);
  pixels[static_cast<size_t>(kept[2] / 3 * 8 * 72 + kept[2] % 3 * 24)] = 7;  // one that is kept
  EXPECT_NE(encoded(), before);
}

}  // namespace
}  // namespace clip
