// Pictures on their way to a tower: decode, resize as Pillow does, crop. All pixels are 8-bit RGB.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/random.h"

namespace clip {

/// An 8-bit RGB picture: pixels [height, width, 3], rows from top to bottom.
struct Image {
  int64_t width = 0;
  int64_t height = 0;
  std::vector<uint8_t> pixels;
};

/// Decodes PNG, JPEG, BMP, GIF (first frame), TGA, PSD or 8-bit binary PPM or PGM to RGB: grey is
/// repeated, palettes are looked up, 16 bits are cut to 8 (but clipped in grey PNGs without alpha),
/// alpha and EXIF rotation are ignored.
///
/// name      what the error calls the picture (a path, or "shard.tar: 000012.jpg")
/// throws    clip::Error if the bytes are no picture, end too early, or exceed kMaxImagePixels
/// source    equal to Pillow's convert("RGB") in every bit (16-bit BMPs aside); libjpeg-turbo,
///           stb_image
Image decode_image(std::span<const uint8_t> bytes, const std::string& name);

/// Whether this build decodes JPEG by libjpeg-turbo, with Pillow's pixels; else stb_image does,
/// and values differ by a few steps.
bool jpeg_equals_pillow();

/// decode_image of a file; throws clip::Error that names the path if it cannot be read.
Image load_image(const std::string& path);

/// Pictures with more pixels are refused from their header, before anything is allocated.
inline constexpr int64_t kMaxImagePixels = 100'000'000;

/// The part of a picture that a resize reads, in pixels; may be fractional, like Pillow's `box`.
struct Box {
  double left, top, right, bottom;
};

double bicubic(double x);  ///< the weight of a pixel at distance x, a = -0.5

/// Bicubic resize (a = -0.5, antialiased, each pass rounded to 8 bits) with Pillow's fixed-point
/// coefficients: equals PIL.Image.resize((width, height), BICUBIC, box) of Pillow 13 in every bit.
/// The horizontal pass comes first, except where the height loses more than twice as many pixels as
/// the width; earlier Pillows always begin with the horizontal pass and so round differently there
/// (in resize_and_center_crop: for some pictures taller than wide).
///
/// throws    clip::Error if the box is empty or leaves the picture, or if the result exceeds
///           kMaxImagePixels
Image resize_bicubic(const Image& image, int64_t width, int64_t height, const Box& box);
Image resize_bicubic(const Image& image, int64_t width, int64_t height);

/// CLIP's evaluation transform, prepare_image of models/preprocess.h with CLIP's own rules: short
/// side to `size` (long side truncated, as torchvision does), centre crop (offsets rounded half to
/// even). Only the pixels of the crop are ever computed.
/// returns [size, size, 3]
Image resize_and_center_crop(const Image& image, int64_t size);

/// Whole pixels [left, left + width) x [top, top + height) of a picture.
struct Rectangle {
  int64_t left, top, width, height;
};

/// The part of a width x height picture that random_resized_crop keeps: its area is min_scale to
/// max_scale of the picture's (uniform), its aspect 3/4 to 4/3 (log-uniform), both before rounding
/// to whole pixels, its place uniform. After ten misfits: the largest centred part of such aspect.
/// source    torchvision.transforms.RandomResizedCrop.get_params
Rectangle random_crop(int64_t width, int64_t height, double min_scale, double max_scale,
                      Random& random);

/// torchvision's RandomResizedCrop: random_crop, then bicubic resize of that part alone. All
/// randomness comes from `random`.
/// returns [size, size, 3]
Image random_resized_crop(const Image& image, int64_t size, double min_scale, double max_scale,
                          Random& random);

/// Writes a PNG (tests, reports), first under another name; throws clip::Error that names the path.
void save_png(const Image& image, const std::string& path);

}  // namespace clip
