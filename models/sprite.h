// Small pictures with transparency, what scenes are put together from, and the words for them.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "models/image.h"

namespace clip {

/// How captions call an object: "an owl", "three owls".
struct Noun {
  std::string_view article;  ///< "a" or "an"
  std::string_view singular;
  std::string_view plural;
};

/// A picture with transparency: pixels [height, width, 4], red, green, blue and alpha, the colours
/// premultiplied by alpha, so none exceeds it.
struct Sprite {
  int64_t width = 0;
  int64_t height = 0;
  std::vector<uint8_t> pixels;
};

enum class Mirror { kNo, kYes };

/// What is not fully transparent, centred in a square and averaged by area to [side, side].
/// Averages are taken of premultiplied colours: transparent pixels would darken the rim otherwise.
/// throws    clip::Error if the whole sprite is transparent
Sprite fit_to_square(const Sprite& sprite, int64_t side);

/// Puts a sprite over the picture, its upper left corner at (left, top); it must lie inside.
void draw_sprite(Image& image, const Sprite& sprite, int64_t left, int64_t top, Mirror mirror);

}  // namespace clip
