#include "models/sprite.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

#include "engine/check.h"
#include "models/shapes.h"

namespace clip {
namespace {

using Rgb = std::array<int, 3>;

Rgb pixel(const Image& image, int64_t i) {
  const uint8_t* p = &image.pixels[static_cast<size_t>(i * 3)];
  return {p[0], p[1], p[2]};
}

TEST(Sprite, AveragesByAreaWithoutDarkeningTheRim) {
  // A white pixel beside half-transparent white: the premultiplied mean keeps colour == alpha.
  const Sprite sprite = {
      2, 2, {255, 255, 255, 255, 128, 128, 128, 128, 255, 255, 255, 255, 0, 0, 0, 0}};
  const Sprite one = fit_to_square(sprite, 1);
  EXPECT_EQ(one.pixels, (std::vector<uint8_t>{160, 160, 160, 160}));  // (255 + 128 + 255) / 4
}

TEST(Sprite, IsTrimmedAndCentred) {
  // One column of two pixels, red over blue, in a wide transparent frame.
  Sprite sprite = {4, 2, std::vector<uint8_t>(32)};
  sprite.pixels[12] = sprite.pixels[15] = 255;  // (3, 0) red
  sprite.pixels[30] = sprite.pixels[31] = 255;  // (3, 1) blue
  const Sprite fitted = fit_to_square(sprite, 4);
  Image image = {4, 4, std::vector<uint8_t>(48, 100)};
  draw_sprite(image, fitted, 0, 0, Mirror::kNo);
  EXPECT_EQ(pixel(image, 0), (Rgb{100, 100, 100}));
  EXPECT_EQ(pixel(image, 1), (Rgb{255, 0, 0}));
  EXPECT_EQ(pixel(image, 14), (Rgb{0, 0, 255}));
  EXPECT_EQ(pixel(image, 15), (Rgb{100, 100, 100}));
}

TEST(Sprite, MirrorSwapsLeftAndRight) {
  const Sprite sprite = {2, 1, {255, 0, 0, 255, 0, 0, 255, 255}};
  Image image = {2, 1, std::vector<uint8_t>(6)};
  draw_sprite(image, sprite, 0, 0, Mirror::kYes);
  EXPECT_EQ(image.pixels, (std::vector<uint8_t>{0, 0, 255, 255, 0, 0}));
}

TEST(Sprite, RefusesPlacesOutsideThePictureAndEmptyArt) {
  const Sprite sprite = {2, 1, {255, 0, 0, 255, 0, 0, 255, 255}};
  Image image = {2, 1, std::vector<uint8_t>(6)};
  EXPECT_THROW(draw_sprite(image, sprite, 1, 0, Mirror::kNo), Error);
  EXPECT_THROW(fit_to_square({2, 1, std::vector<uint8_t>(8)}, 4), Error);
}

TEST(Shapes, DifferFromOneAnotherAtTenPixels) {
  std::set<std::vector<uint8_t>> drawn;
  for (const DrawnShape& shape : drawn_shapes())
    drawn.insert(fit_to_square(draw_shape(shape), 10).pixels);
  EXPECT_EQ(drawn.size(), drawn_shapes().size());
}

}  // namespace
}  // namespace clip
