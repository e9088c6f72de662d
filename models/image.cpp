// Pictures from files and to files.
#include "models/image.h"

#include <stb/stb_image_write.h>

#include <climits>
#include <filesystem>
#include <fstream>

#include "engine/check.h"
#include "models/atomic_file.h"
#include "models/image_decoders.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

void append_bytes(void* user, void* data, int size) {
  const auto* first = static_cast<const uint8_t*>(data);
  auto& bytes = *static_cast<std::vector<uint8_t>*>(user);
  bytes.insert(bytes.end(), first, first + size);
}

}  // namespace

Image decode_image(std::span<const uint8_t> bytes, const std::string& name) {
  CLIP_CHECK(
      !(starts_with(bytes, "RIFF") && bytes.size() >= 12 && starts_with(bytes.subspan(8), "WEBP")),
      "picture '", name, "' is WebP, which is not supported: convert it to PNG or JPEG");
  // Any number of FF may come before a marker, the first one too.
  const bool is_jpeg = starts_with(bytes, "\xFF\xD8") || starts_with(bytes, "\xFF\xFF");
  if (is_jpeg) return decode_jpeg(bytes, name);
  return starts_with(bytes, "GIF8") ? decode_gif(bytes, name) : decode_with_stb(bytes, name);
}

Image load_image(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  CLIP_CHECK(fs::exists(status), "picture '", path, "' does not exist");
  // Reading a pipe or a device might never end.
  CLIP_CHECK(fs::is_regular_file(status), "picture '", path, "' is not a file");
  const uintmax_t size = fs::file_size(path, error);
  CLIP_CHECK(!error, "picture '", path, "' cannot be read: ", error.message());
  CLIP_CHECK(size <= INT_MAX, "picture '", path, "' must have at most ", INT_MAX, " bytes, got ",
             size);

  std::vector<uint8_t> bytes(size);
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
  CLIP_CHECK(file.good(), "picture '", path, "' cannot be read");
  return decode_image(bytes, path);
}

void save_png(const Image& image, const std::string& path) {
  CLIP_CHECK(image.width > 0 && image.height > 0 && image.width <= kMaxImagePixels / image.height &&
                 std::ssize(image.pixels) == image.width * image.height * 3,
             "[save_png] '", path, "' must get 1 to ", kMaxImagePixels, " pixels of 3 bytes, got ",
             image.width, " x ", image.height, " and ", image.pixels.size(), " bytes");
  const int width = static_cast<int>(image.width), height = static_cast<int>(image.height);
  std::vector<uint8_t> bytes;
  CLIP_CHECK(stbi_write_png_to_func(append_bytes, &bytes, width, height, 3, image.pixels.data(),
                                    3 * width) != 0,
             "picture '", path, "' cannot be encoded");
  write_file(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

}  // namespace clip
