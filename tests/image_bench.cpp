// Pictures per second of one thread, and how far apart the two decoders of JPEG are.
// usage: image_bench [picture.jpg]; without one, a picture of waves and noise, 640 x 480, quality 90
#include <stb/stb_image_write.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <functional>

#include "models/atomic_file.h"
#include "models/image_decoders.h"

namespace clip {
namespace {

/// Of processor time, so that other programs do not count; the best of five tries.
double per_second(const std::function<void()>& work) {
  constexpr double kSeconds = 0.2;
  double best = 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    const std::clock_t start = std::clock();
    double runs = 0, seconds = 0;
    while (seconds < kSeconds) {
      work();
      ++runs;
      seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    }
    best = std::max(best, runs / seconds);
  }
  return best;
}

std::string synthetic_jpeg() {
  constexpr int kWidth = 640, kHeight = 480, kQuality = 90;
  std::vector<uint8_t> pixels;
  Random random(1, 2);
  for (int y = 0; y < kHeight; ++y) {
    for (int x = 0; x < kWidth; ++x) {
      for (int c = 0; c < 3; ++c) {
        const double waves =
            50 * std::sin(x * 0.02 * (c + 1) + y * 0.03) + 40 * std::cos(y * 0.11 - x * 0.05 * c);
        pixels.push_back(static_cast<uint8_t>(128 + waves + random.uniform(-12, 12)));
      }
    }
  }
  std::string bytes;
  const auto append = [](void* all, void* data, int size) {
    static_cast<std::string*>(all)->append(static_cast<const char*>(data),
                                           static_cast<size_t>(size));
  };
  stbi_write_jpg_to_func(append, &bytes, kWidth, kHeight, 3, pixels.data(), kQuality);
  return bytes;
}

void compare(const char* where, const Image& a, const Image& b) {
  double different = 0, sum = 0, worst = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) {
    const double distance = std::abs(a.pixels[i] - b.pixels[i]);
    different += distance > 0 ? 1 : 0;
    sum += distance;
    worst = std::max(worst, distance);
  }
  const auto count = static_cast<double>(a.pixels.size());
  std::printf("  %-28s %5.1f %% of the values differ, by %.3f in the mean, %.0f at most\n", where,
              100 * different / count, sum / count, worst);
}

void run(const std::string& jpeg) {
  const std::span bytes(reinterpret_cast<const uint8_t*>(jpeg.data()), jpeg.size());
  const Image image = decode_jpeg(bytes, "jpeg"), other = decode_with_stb(bytes, "jpeg");
  std::printf("JPEG of %lld x %lld, %zu bytes; pictures per second of one thread\n",
              static_cast<long long>(image.width), static_cast<long long>(image.height),
              jpeg.size());
  const auto row = [](const char* what, const std::function<void()>& work) {
    std::printf("  %-28s %7.1f\n", what, per_second(work));
  };
  const bool turbo = jpeg_equals_pillow();
  row(turbo ? "decode (libjpeg-turbo)" : "decode (stb_image)", [&] { decode_jpeg(bytes, "jpeg"); });
  row("decode (stb_image)", [&] { decode_with_stb(bytes, "jpeg"); });
  row("resize and crop to 224", [&] { resize_and_center_crop(image, 224); });
  row("decode, resize and crop", [&] { resize_and_center_crop(decode_jpeg(bytes, "jpeg"), 224); });
  if (!turbo) return;
  std::printf("stb_image against libjpeg-turbo\n");
  compare("decoded", image, other);
  compare("resized and cropped to 224", resize_and_center_crop(image, 224),
          resize_and_center_crop(other, 224));
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  try {
    clip::run(argc > 1 ? clip::read_file(argv[1], 1 << 28) : clip::synthetic_jpeg());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "image_bench: %s\n", error.what());
    return 1;
  }
}
