// Synthetic pictures, and what tests/reference/make_image_reference.py stored about them.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "models/image.h"
#include "tests/reference_path.h"

namespace clip {

/// The same formula as picture() in make_image_reference.py.
inline Image synthetic_picture(int64_t width, int64_t height) {
  Image image{width, height, {}};
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      for (int64_t c = 0; c < 3; ++c) {
        const int64_t curves = (x * x + 3 * y * y + (c + 1) * x * y + 37 * c) % 256;
        const bool in_stripe = (x / 3 + y / 5 + c) % 4 == 0;
        image.pixels.push_back(static_cast<uint8_t>(in_stripe ? 255 * ((x + y) % 2) : curves));
      }
    }
  }
  return image;
}

inline std::array<int, 3> pixel(const Image& image, int64_t x, int64_t y) {
  const auto at = static_cast<size_t>((y * image.width + x) * 3);
  return {image.pixels[at], image.pixels[at + 1], image.pixels[at + 2]};
}

/// What summary() in make_image_reference.py writes: the hash of all bytes, then three pixels.
struct Summary {
  uint64_t hash = 0;
  std::array<int, 9> samples{};
};

inline Summary read_summary(std::istream& in) {
  Summary summary;
  in >> summary.hash;
  for (int& sample : summary.samples) in >> sample;
  return summary;
}

inline void expect_equal(const Image& image, const Summary& expected) {
  ASSERT_EQ(std::ssize(image.pixels), image.width * image.height * 3);
  std::array<int, 9> samples{};
  const std::array pixels = {pixel(image, 0, 0), pixel(image, image.width / 2, image.height / 2),
                             pixel(image, image.width - 1, image.height - 1)};
  for (size_t i = 0; i < 9; ++i) samples[i] = pixels[i / 3][i % 3];
  EXPECT_EQ(samples, expected.samples);
  const std::string_view bytes(reinterpret_cast<const char*>(image.pixels.data()),
                               image.pixels.size());
  EXPECT_EQ(random_stream(bytes), expected.hash);  // random_stream is the FNV-1a hash
}

inline std::vector<std::string> reference_lines(const std::string& name) {
  std::ifstream file(reference_path(name));
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  EXPECT_FALSE(lines.empty()) << name;
  return lines;
}

}  // namespace clip
