// Resizing and cropping against stored results of Pillow and torchvision.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "engine/check.h"
#include "models/image.h"
#include "tests/image_reference.h"

namespace clip {
namespace {

using Bytes = std::vector<uint8_t>;

TEST(Resize, EqualsPillowInEveryBit) {
  int cases = 0;
  for (const std::string& line : reference_lines("image_resize.txt")) {
    SCOPED_TRACE(line);
    std::istringstream in(line);
    std::string kind;
    int64_t width = 0, height = 0, new_width = 0, new_height = 0;
    Box box{};
    in >> kind >> width >> height >> new_width >> new_height;
    if (kind != "resize") continue;
    in >> box.left >> box.top >> box.right >> box.bottom;
    const Image result =
        resize_bicubic(synthetic_picture(width, height), new_width, new_height, box);
    EXPECT_EQ(result.width, new_width);
    EXPECT_EQ(result.height, new_height);
    expect_equal(result, read_summary(in));
    ++cases;
  }
  EXPECT_GE(cases, 20);
}

TEST(Resize, WithoutABoxReadsTheWholePicture) {
  const Image image = synthetic_picture(40, 30);
  EXPECT_EQ(resize_bicubic(image, 7, 9).pixels, resize_bicubic(image, 7, 9, {0, 0, 40, 30}).pixels);
}

TEST(Resize, OfABoxReadsNeighboursOutsideIt) {
  const Image image = synthetic_picture(40, 30);
  const Image boxed = resize_bicubic(image, 6, 30, {8, 0, 24, 30});
  const Image cropped = resize_bicubic(resize_bicubic(image, 16, 30, {8, 0, 24, 30}), 6, 30);
  EXPECT_NE(boxed.pixels, cropped.pixels);
}

TEST(Resize, RefusesBoxesThatAreEmptyOrLeaveThePicture) {
  const Image image = synthetic_picture(8, 6);
  const double nan = std::nan("");
  for (const Box& box : {Box{-0.5, 0, 8, 6}, Box{0, 0, 8.5, 6}, Box{0, 0, 8, 7}, Box{3, 0, 3, 6},
                         Box{5, 0, 4, 6}, Box{nan, 0, 8, 6}, Box{0, 0, 8, nan}}) {
    EXPECT_THROW(resize_bicubic(image, 4, 4, box), Error);
  }
}

TEST(Resize, RefusesSizesThatAreNotPositiveOrTooLarge) {
  const Image image = synthetic_picture(8, 6);
  EXPECT_THROW(resize_bicubic(image, 0, 4), Error);
  EXPECT_THROW(resize_bicubic(image, 4, -1), Error);
  EXPECT_THROW(resize_bicubic(image, kMaxImagePixels, 2), Error);
  EXPECT_THROW(resize_bicubic(image, INT64_MAX, INT64_MAX), Error);
  EXPECT_THROW(resize_and_center_crop(image, 0), Error);
  EXPECT_THROW(resize_and_center_crop(image, INT64_MAX), Error);
}

TEST(Resize, RefusesPicturesWhosePixelsDoNotMatchTheirSize) {
  EXPECT_THROW(resize_bicubic(Image{}, 4, 4), Error);
  EXPECT_THROW(resize_bicubic(Image{2, 2, Bytes(11)}, 4, 4), Error);
  EXPECT_THROW(resize_and_center_crop(Image{-2, -2, Bytes(12)}, 4), Error);
}

TEST(CenterCrop, EqualsTorchvisionInEveryBit) {
  int cases = 0;
  for (const std::string& line : reference_lines("image_resize.txt")) {
    SCOPED_TRACE(line);
    std::istringstream in(line);
    std::string kind;
    int64_t width = 0, height = 0, size = 0;
    in >> kind >> width >> height >> size;
    if (kind != "transform") continue;
    const Image result = resize_and_center_crop(synthetic_picture(width, height), size);
    EXPECT_EQ(result.width, size);
    EXPECT_EQ(result.height, size);
    expect_equal(result, read_summary(in));
    ++cases;
  }
  EXPECT_GE(cases, 10);
}

TEST(CenterCrop, OfExtremeShapesIsTheSameAsCroppingTheWholeResult) {
  // 20,000 x 3 at 6 is 40,000 x 6; the crop starts at column 19,997.
  const Image wide = synthetic_picture(20'000, 3);
  const Image whole = resize_bicubic(wide, 40'000, 6);
  const Image crop = resize_and_center_crop(wide, 6);
  for (int64_t y = 0; y < 6; ++y) {
    for (int64_t x = 0; x < 6; ++x) EXPECT_EQ(pixel(crop, x, y), pixel(whole, x + 19'997, y));
  }
}

TEST(Crops, WorkOnPicturesOfOnePixelOneRowAndOneColumn) {
  for (const auto& [width, height] : {std::pair{1, 1}, {20'000, 1}, {1, 20'000}, {20'000, 300}}) {
    const Image image{width, height, Bytes(static_cast<size_t>(width) * height * 3, 77)};
    Random random(1, 2);
    for (const Image& result :
         {resize_and_center_crop(image, 224), random_resized_crop(image, 224, 0.9, 1.0, random)}) {
      EXPECT_EQ(result.width, 224);
      EXPECT_EQ(result.height, 224);
      // A constant picture stays constant: the weights of each value sum to one.
      EXPECT_EQ(result.pixels, Bytes(224 * 224 * 3, 77));
    }
  }
}

TEST(RandomCrop, KeepsAreaAndAspectWithinTheirLimits) {
  Random random(3, 4);
  for (int i = 0; i < 2000; ++i) {
    const Rectangle crop = random_crop(640, 480, 0.1, 0.5, random);
    ASSERT_GE(crop.left, 0);
    ASSERT_GE(crop.top, 0);
    ASSERT_LE(crop.left + crop.width, 640);
    ASSERT_LE(crop.top + crop.height, 480);
    const auto w = static_cast<double>(crop.width), h = static_cast<double>(crop.height);
    // Each side is rounded by up to half a pixel.
    EXPECT_GE((w + 0.5) * (h + 0.5), 0.1 * 640 * 480);
    EXPECT_LE((w - 0.5) * (h - 0.5), 0.5 * 640 * 480);
    EXPECT_GE((w + 0.5) / (h - 0.5), 3.0 / 4);
    EXPECT_LE((w - 0.5) / (h + 0.5), 4.0 / 3);
  }
}

TEST(RandomCrop, SpreadsAreaAspectAndPlaceEvenly) {
  constexpr int kCrops = 20'000;
  // In a square no crop of at most half its area is ever a misfit, so nothing is drawn again.
  double area = 0, aspect = 0, aspect_squared = 0, left = 0, top = 0;
  Random random(5, 6);
  for (int i = 0; i < kCrops; ++i) {
    const Rectangle crop = random_crop(2000, 2000, 0.1, 0.5, random);
    const auto w = static_cast<double>(crop.width), h = static_cast<double>(crop.height);
    area += w * h / 4e6 / kCrops;
    aspect += std::log(w / h) / kCrops;
    aspect_squared += std::log(w / h) * std::log(w / h) / kCrops;
    left += static_cast<double>(crop.left) / (2000 - w) / kCrops;
    top += static_cast<double>(crop.top) / (2000 - h) / kCrops;
  }
  // Tolerance: five standard errors of the mean of kCrops uniform numbers.
  const auto tolerance = [](double range) { return 5 * range / std::sqrt(12.0 * kCrops); };
  const double half_range = std::log(4.0 / 3);
  EXPECT_NEAR(area, 0.3, tolerance(0.4));
  EXPECT_NEAR(aspect, 0, tolerance(2 * half_range));
  EXPECT_NEAR(aspect_squared, half_range * half_range / 3, tolerance(half_range * half_range));
  EXPECT_NEAR(left, 0.5, tolerance(1));
  EXPECT_NEAR(top, 0.5, tolerance(1));
}

TEST(RandomCrop, FallsBackToTheLargestCentredPartOfAllowedAspect) {
  Random random(7, 8);
  // No crop of the whole area fits a picture this long: width 100 * 4 / 3, rounded.
  const Rectangle wide = random_crop(400, 100, 1, 1, random);
  EXPECT_EQ((std::array{wide.left, wide.top, wide.width, wide.height}),
            (std::array<int64_t, 4>{133, 0, 133, 100}));
  const Rectangle tall = random_crop(100, 401, 1, 1, random);
  EXPECT_EQ((std::array{tall.left, tall.top, tall.width, tall.height}),
            (std::array<int64_t, 4>{0, 134, 100, 133}));
  const Rectangle whole = random_crop(110, 100, 1, 1, random);
  EXPECT_EQ((std::array{whole.left, whole.top, whole.width, whole.height}),
            (std::array<int64_t, 4>{0, 0, 110, 100}));
}

TEST(RandomCrop, RefusesScalesOutsideZeroToOne) {
  Random random(9, 10);
  for (const auto& [low, high] : {std::pair{0.0, 1.0}, {0.5, 0.4}, {0.5, 1.1}, {-1.0, 0.5}}) {
    EXPECT_THROW(random_crop(10, 10, low, high, random), Error);
  }
  EXPECT_THROW(random_crop(10, 10, std::nan(""), 1, random), Error);
}

TEST(RandomResizedCrop, ResizesTheCropAloneAndReadsNoNeighbours) {
  const Image image = synthetic_picture(60, 50);
  Random first(11, 12), second(11, 12);
  const Image result = random_resized_crop(image, 16, 0.2, 0.6, first);
  const Rectangle crop = random_crop(60, 50, 0.2, 0.6, second);
  Image part{crop.width, crop.height, {}};
  for (int64_t y = crop.top; y < crop.top + crop.height; ++y) {
    const auto row = image.pixels.begin() + (y * 60 + crop.left) * 3;
    part.pixels.insert(part.pixels.end(), row, row + crop.width * 3);
  }
  EXPECT_EQ(result.pixels, resize_bicubic(part, 16, 16).pixels);
}

TEST(RandomResizedCrop, DependsOnSeedAndStreamAlone) {
  const Image image = synthetic_picture(60, 50);
  const auto crop = [&](uint64_t seed, uint64_t stream) {
    Random random(seed, stream);
    return random_resized_crop(image, 16, 0.2, 0.6, random).pixels;
  };
  EXPECT_EQ(crop(1, 2), crop(1, 2));
  EXPECT_NE(crop(1, 2), crop(1, 3));
  EXPECT_NE(crop(1, 2), crop(2, 2));
}

}  // namespace
}  // namespace clip
