// Every kind of picture but GIF, and JPEG where there is no libjpeg-turbo, by stb_image as Debian's libstb builds it.
#include <stb/stb_image.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <memory>
#include <utility>

#include "engine/check.h"
#include "models/image_decoders.h"

namespace clip {
namespace {

using Bytes = std::span<const uint8_t>;

/// The bytes as stb_image reads them, and whether it asked for one past the last. For JPEG, BMP,
/// PSD and compressed TGA that is the only sign of a cut file: stb_image goes on with zeros.
struct Source {
  Bytes bytes;
  size_t position = 0;
  bool ended_early = false;
};

int read_source(void* user, char* data, int size) {
  auto& source = *static_cast<Source*>(user);
  const size_t left = source.bytes.size() - source.position;
  const size_t count = std::min(static_cast<size_t>(size), left);
  // A short answer alone says nothing, since stb_image reads ahead; it asks again when in need.
  if (left == 0) source.ended_early = true;
  if (count > 0) std::memcpy(data, source.bytes.data() + source.position, count);
  source.position += count;
  return static_cast<int>(count);
}

void skip_source(void* user, int count) {
  auto& source = *static_cast<Source*>(user);
  const auto position = static_cast<int64_t>(source.position) + count;
  source.position = static_cast<size_t>(std::clamp<int64_t>(position, 0, std::ssize(source.bytes)));
}

int is_source_at_end(void* user) {
  const auto& source = *static_cast<const Source*>(user);
  return source.position == source.bytes.size() ? 1 : 0;
}

struct PnmHeader {
  size_t size = 0;       ///< bytes before the first pixel
  int64_t maximum = -1;  ///< value of white; -1 if the header is broken
};

/// "P6 640 480 255" and one white space; '#' starts a comment that ends with its line.
PnmHeader read_pnm_header(Bytes bytes) {
  const auto is_space = [](uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  const auto is_digit = [](uint8_t c) { return c >= '0' && c <= '9'; };
  size_t at = 2;
  int64_t value = -1;
  for (int field = 0; field < 3; ++field) {
    while (at < bytes.size() && (is_space(bytes[at]) || bytes[at] == '#')) {
      if (bytes[at] == '#') {
        while (at < bytes.size() && bytes[at] != '\n' && bytes[at] != '\r') ++at;
      } else {
        ++at;
      }
    }
    if (at == bytes.size() || !is_digit(bytes[at])) return {};
    for (value = 0; at < bytes.size() && is_digit(bytes[at]); ++at) {
      value = std::min<int64_t>(value * 10 + (bytes[at] - '0'), INT_MAX);
    }
  }
  return {at + 1, value};
}

/// Formats with little or no compression: are the rows all there? stb_image would make a whole
/// picture first, or not even notice.
void check_length(Bytes bytes, int64_t width, int64_t height, const std::string& name) {
  int64_t expected = 0;
  if (starts_with(bytes, "P5") || starts_with(bytes, "P6")) {
    const PnmHeader header = read_pnm_header(bytes);
    // stb_image neither scales other maxima nor keeps within its buffer at 16 bits.
    CLIP_CHECK(header.maximum == 255, "picture '", name,
               "' must be a PNM file of maximum 255, got ", header.maximum);
    expected = static_cast<int64_t>(header.size) + width * height * (bytes[1] == '6' ? 3 : 1);
  } else if (bytes.size() >= 18 && bytes[1] == 0 && (bytes[2] == 2 || bytes[2] == 3)) {
    // TGA without palette or compression: no other format has a zero there.
    expected = 18 + bytes[0] + width * height * ((bytes[16] + 7) / 8);
  } else if (bytes.size() >= 30 && starts_with(bytes, "BM")) {
    // stb_image reads no compressed BMP. The oldest header, of 12 bytes, has the bits at 24.
    const int64_t bits_per_pixel = bytes[14] == 12 ? bytes[24] : bytes[28];
    expected = width * height * bits_per_pixel / 8;
  } else if (starts_with(bytes, "8BPS")) {
    expected = width * height / 64;  // compressed as well as can be: 128 values in two bytes
  }
  CLIP_CHECK(std::ssize(bytes) >= expected, "picture '", name, "' is cut short: expected at least ",
             expected, " bytes, found ", bytes.size());
}

/// Width and height from the header. Throws if the bytes are no picture that we decode.
std::pair<int64_t, int64_t> read_size(Bytes bytes, const std::string& name) {
  CLIP_CHECK(!bytes.empty(), "picture '", name, "' is empty");
  CLIP_CHECK(bytes.size() <= INT_MAX, "picture '", name, "' must have at most ", INT_MAX,
             " bytes, got ", bytes.size());
  // stb_image also reads Radiance HDR, which is not 8-bit, and Softimage PIC, where a cut file
  // makes it read address zero.
  const bool is_known = !starts_with(bytes, "#?") && !starts_with(bytes, "\x53\x80\xF6\x34");
  int width = 0, height = 0, channels = 0;
  CLIP_CHECK(is_known && stbi_info_from_memory(bytes.data(), static_cast<int>(bytes.size()), &width,
                                               &height, &channels) != 0,
             "picture '", name,
             "' is not PNG, JPEG, BMP, GIF, TGA, PSD, binary PPM or PGM, its header "
             "is broken, or it has more than ",
             kMaxImagePixels, " pixels");
  // A BMP stored from top to bottom has a negative height.
  const int64_t rows = std::abs(int64_t{height});
  CLIP_CHECK(width > 0 && rows > 0, "picture '", name, "' must have pixels, got ", width, " x ",
             rows);
  CLIP_CHECK(width * rows <= kMaxImagePixels, "picture '", name, "' must have at most ",
             kMaxImagePixels, " pixels, got ", width, " x ", rows);
  return {width, rows};
}

/// A PNG of 16-bit grey: its first chunk has the depth at byte 24, the kind of colour at byte 25.
bool is_deep_grey(Bytes bytes) {
  return starts_with(bytes, "\x89PNG") && bytes.size() > 25 && bytes[24] == 16 && bytes[25] == 0;
}

struct FreeStb {
  void operator()(void* pixels) const { stbi_image_free(pixels); }
};

/// 16-bit grey is not scaled but clipped by Pillow's convert("RGB").
Image clipped(const uint16_t* values, int64_t width, int64_t height) {
  Image image{width, height, {}};
  image.pixels.reserve(static_cast<size_t>(width * height * 3));
  for (int64_t i = 0; i < width * height; ++i) {
    image.pixels.insert(image.pixels.end(), 3,
                        static_cast<uint8_t>(std::min<uint16_t>(values[i], 255)));
  }
  return image;
}

}  // namespace

Image decode_with_stb(std::span<const uint8_t> bytes, const std::string& name) {
  const auto [width, height] = read_size(bytes, name);
  check_length(bytes, width, height, name);

  constexpr stbi_io_callbacks kCallbacks = {read_source, skip_source, is_source_at_end};
  Source source{.bytes = bytes};
  int decoded_width = 0, decoded_height = 0, channels = 0;
  const bool deep_grey = is_deep_grey(bytes);
  const std::unique_ptr<void, FreeStb> pixels(
      deep_grey ? static_cast<void*>(stbi_load_16_from_callbacks(
                      &kCallbacks, &source, &decoded_width, &decoded_height, &channels, STBI_grey))
                : stbi_load_from_callbacks(&kCallbacks, &source, &decoded_width, &decoded_height,
                                           &channels, STBI_rgb));
  CLIP_CHECK(!source.ended_early, "picture '", name, "' is cut short: its data go on after its ",
             bytes.size(), " bytes");
  CLIP_CHECK(pixels != nullptr, "picture '", name, "' cannot be decoded: ", stbi_failure_reason());
  CLIP_CHECK(decoded_width == width && decoded_height == height, "picture '", name,
             "' contradicts itself: its header says ", width, " x ", height, ", its data ",
             decoded_width, " x ", decoded_height);
  if (deep_grey) return clipped(static_cast<const uint16_t*>(pixels.get()), width, height);
  const auto* rgb = static_cast<const uint8_t*>(pixels.get());
  return {width, height, {rgb, rgb + width * height * 3}};
}

}  // namespace clip
