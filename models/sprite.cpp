#include "models/sprite.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/check.h"

namespace clip {
namespace {

/// Pixels [left, right) x [top, bottom).
struct Bounds {
  int64_t left, top, right, bottom;
};

Bounds visible_bounds(const Sprite& sprite) {
  Bounds bounds = {sprite.width, sprite.height, 0, 0};
  for (int64_t y = 0; y < sprite.height; ++y) {
    for (int64_t x = 0; x < sprite.width; ++x) {
      if (sprite.pixels[static_cast<size_t>((y * sprite.width + x) * 4 + 3)] == 0) continue;
      bounds = {std::min(bounds.left, x), std::min(bounds.top, y), std::max(bounds.right, x + 1),
                std::max(bounds.bottom, y + 1)};
    }
  }
  CLIP_CHECK(bounds.left < bounds.right, "[fit_to_square] the sprite, ", sprite.width, " x ",
             sprite.height, " pixels, must show something, but all of it is transparent");
  return bounds;
}

/// Mean of the sprite over [left, left + extent) x [top, top + extent); transparent outside it.
std::array<uint8_t, 4> area_mean(const Sprite& sprite, double left, double top, double extent) {
  std::array<double, 4> sum{};
  const auto first_row = static_cast<int64_t>(std::max(0.0, std::floor(top)));
  const auto first_column = static_cast<int64_t>(std::max(0.0, std::floor(left)));
  for (int64_t y = first_row; y < sprite.height && static_cast<double>(y) < top + extent; ++y) {
    const double row = static_cast<double>(y);
    const double height = std::min(row + 1.0, top + extent) - std::max(row, top);
    for (int64_t x = first_column; x < sprite.width && static_cast<double>(x) < left + extent;
         ++x) {
      const double column = static_cast<double>(x);
      const double area = height * (std::min(column + 1.0, left + extent) - std::max(column, left));
      const uint8_t* pixel = &sprite.pixels[static_cast<size_t>((y * sprite.width + x) * 4)];
      for (size_t c = 0; c < 4; ++c) sum[c] += area * pixel[c];
    }
  }
  std::array<uint8_t, 4> mean{};
  for (size_t c = 0; c < 4; ++c)
    mean[c] = static_cast<uint8_t>(std::min(255L, std::lround(sum[c] / (extent * extent))));
  return mean;
}

}  // namespace

Sprite fit_to_square(const Sprite& sprite, int64_t side) {
  const Bounds bounds = visible_bounds(sprite);
  const auto width = static_cast<double>(bounds.right - bounds.left);
  const auto height = static_cast<double>(bounds.bottom - bounds.top);
  const double source_side = std::max(width, height);
  const double left = static_cast<double>(bounds.left) - (source_side - width) / 2;
  const double top = static_cast<double>(bounds.top) - (source_side - height) / 2;
  const double step = source_side / static_cast<double>(side);

  Sprite result = {side, side, {}};
  result.pixels.reserve(static_cast<size_t>(side * side * 4));
  for (int64_t y = 0; y < side; ++y) {
    for (int64_t x = 0; x < side; ++x) {
      const auto mean = area_mean(sprite, left + static_cast<double>(x) * step,
                                  top + static_cast<double>(y) * step, step);
      result.pixels.insert(result.pixels.end(), mean.begin(), mean.end());
    }
  }
  return result;
}

void draw_sprite(Image& image, const Sprite& sprite, int64_t left, int64_t top, Mirror mirror) {
  CLIP_CHECK(left >= 0 && top >= 0 && left + sprite.width <= image.width &&
                 top + sprite.height <= image.height,
             "[draw_sprite] a sprite of ", sprite.width, " x ", sprite.height, " pixels at (", left,
             ", ", top, ") must lie inside the picture of ", image.width, " x ", image.height);
  for (int64_t y = 0; y < sprite.height; ++y) {
    uint8_t* target = &image.pixels[static_cast<size_t>(((top + y) * image.width + left) * 3)];
    for (int64_t x = 0; x < sprite.width; ++x, target += 3) {
      const int64_t column = mirror == Mirror::kYes ? sprite.width - 1 - x : x;
      const uint8_t* source = &sprite.pixels[static_cast<size_t>((y * sprite.width + column) * 4)];
      const int transparency = 255 - source[3];
      for (int c = 0; c < 3; ++c)
        target[c] = static_cast<uint8_t>(source[c] + (target[c] * transparency + 127) / 255);
    }
  }
}

}  // namespace clip
