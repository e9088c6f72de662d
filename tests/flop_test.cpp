#include "models/flop.h"

#include <gtest/gtest.h>

namespace clip {
namespace {

// By hand from L(24 C^2 T + 4 T^2 C) + patches + projection for each tower: ViT-B-32 has 8.82 + 5.96
// GFLOP (open_clip's docs/model_profile.csv). What a last block at one row saves is deducted.
TEST(NeededFlop, IsTheWholeForwardPassLessWhatTheLastBlockLeavesOut) {
  const TowerFlop flop = needed_forward_flop(preset("ViT-B-32"), 77);
  const auto saved = [](double tokens, double width) {
    return (tokens - 1) * (20 * width * width + 4 * tokens * width);
  };
  EXPECT_NEAR(flop.image + saved(50, 768), 8.82e9, 0.01e9);  // the table's last digit
  EXPECT_NEAR(flop.text + saved(77, 512), 5.96e9, 0.01e9);
}

// RN50's picture takes 12.22 GFLOP there, where all 50 rows of the pool are queries.
TEST(NeededFlop, OfAResNetIsThatOfItsConvolutionsAndAPoolOfOneQuery) {
  const double rn50 = needed_forward_flop(preset("RN50"), 77).image;
  const double saved = 49 * 2048.0 * (2 * 2048 + 2 * 1024 + 4 * 50);
  EXPECT_NEAR(rn50 + saved, 12.22e9, 0.01e9);
}

TEST(NeededFlop, OfAMeanOfPatchesIncludesAllRowsOfTheLastBlock) {
  ClipConfig config = preset("ViT-B-32");
  const double one_row = needed_forward_flop(config, 20).image;
  config.vision.pool = Pool::kAverage;
  EXPECT_EQ(needed_forward_flop(config, 20).image - one_row,
            49 * (20 * 768.0 * 768.0 + 4 * 50 * 768.0));
}

TEST(NeededFlop, OfTrainingIsThatOfTheKnownModels) {
  const auto giga = [](const char* model) { return needed_flop(preset(model), 20) / 1e9; };
  EXPECT_NEAR(giga("ViT-B-32"), 29.0, 0.05);  // half of the last digit
  EXPECT_NEAR(giga("ViT-B-16"), 102, 0.5);
  EXPECT_NEAR(giga("ViT-L-14"), 479, 0.5);
  EXPECT_NEAR(giga("ViT-L-14-336"), 1115, 0.5);
}

TEST(NeededFlop, GrowsWithTheCaptionAloneInTheTextTower) {
  const ClipConfig config = preset("tiny");
  EXPECT_EQ(needed_forward_flop(config, 12).image, needed_forward_flop(config, 30).image);
  EXPECT_LT(needed_forward_flop(config, 12).text, needed_forward_flop(config, 30).text);
}

}  // namespace
}  // namespace clip
