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

/// Decodes PNG, JPEG, BMP, GIF (first frame), TGA, PSD or 8-bit binary PNM to RGB: grey is
/// repeated, palettes are looked up, 16 bits are cut to 8, alpha and EXIF rotation are ignored.
///
/// name      what the error calls the picture (a path, or "shard.tar: 000012.jpg")
/// throws    clip::Error if the bytes are no picture, end too early, or exceed kMaxImagePixels
/// source    stb_image; equal to Pillow's convert("RGB") except for JPEG, where a value may differ
///           by a few steps, and for transparent pixels of GIFs
Image decode_image(std::span<const uint8_t> bytes, const std::string& name);

/// decode_image of a file; throws clip::Error that names the path if it cannot be read.
Image load_image(const std::string& path);

/// Pictures with more pixels are refused from their header, before anything is allocated.
inline constexpr int64_t kMaxImagePixels = 100'000'000;

/// The part of a picture that a resize reads, in pixels; may be fractional, like Pillow's `box`.
struct Box {
  double left, top, right, bottom;
};

/// Bicubic resize (a = -0.5, antialiased, each pass rounded to 8 bits) with Pillow's fixed-point
/// coefficients: equals PIL.Image.resize((width, height), BICUBIC, box) in every bit, for Pillow
/// before 13. Later ones take the vertical pass first where the height shrinks much more than the
/// width (in resize_and_center_crop: for some pictures more than twice as tall as wide), and so
/// round differently.
///
/// throws    clip::Error if the box is empty or leaves the picture, or if the result or the picture
///           between the two passes exceeds kMaxImagePixels
Image resize_bicubic(const Image& image, int64_t width, int64_t height, const Box& box);
Image resize_bicubic(const Image& image, int64_t width, int64_t height);

/// CLIP's evaluation transform: short side to `size` (long side truncated, as torchvision does),
/// centre crop (offsets rounded half to even). Only the pixels of the crop are ever computed.
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
