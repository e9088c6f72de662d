// Decoding and encoding, by stb_image and stb_image_write as Debian's libstb builds them.
#include "models/image.h"

#include <stb/stb_image.h>
#include <stb/stb_image_write.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string_view>
#include <utility>

#include "engine/check.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

using Bytes = std::span<const uint8_t>;

bool starts_with(Bytes bytes, std::string_view signature) {
  return bytes.size() >= signature.size() &&
         std::memcmp(bytes.data(), signature.data(), signature.size()) == 0;
}

/// The bytes as stb_image reads them, and whether it asked for one past the last. For JPEG, GIF,
/// BMP, PSD and compressed TGA that is the only sign of a cut file: stb_image goes on with zeros.
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

/// Some versions of stb_image, 2.27 among them, write past the end of a Huffman table of more than
/// 256 codes, so the tables of a JPEG are looked at before: FF, marker, length; after a scan's
/// header, data up to the next FF that no zero and no restart marker follows.
void check_jpeg_tables(Bytes bytes, const std::string& name) {
  constexpr uint8_t kTables = 0xC4, kFirstRestart = 0xD0, kEnd = 0xD9;
  size_t at = 0;
  while (true) {
    while (at < bytes.size() && bytes[at] != 0xFF) ++at;
    while (at < bytes.size() && bytes[at] == 0xFF) ++at;
    if (at + 2 >= bytes.size() || bytes[at] == kEnd) return;
    const uint8_t marker = bytes[at++];
    if (marker <= 1 || (marker >= kFirstRestart && marker < kEnd)) continue;  // has no length
    const size_t end = at + static_cast<size_t>(bytes[at] * 256 + bytes[at + 1]);
    at += 2;
    while (marker == kTables && at < end) {
      // A byte of class and number, 16 counts of codes by their length, a byte for each code.
      CLIP_CHECK(end <= bytes.size() && end - at >= 17, "picture '", name,
                 "' is cut short: a Huffman table does not end");
      size_t codes = 0;
      for (const uint8_t count : bytes.subspan(at + 1, 16)) codes += count;
      CLIP_CHECK(codes <= 256 && codes <= end - at - 17, "picture '", name,
                 "' has a Huffman table of ", codes, " codes where at most ",
                 std::min<size_t>(256, end - at - 17), " fit");
      at += 17 + codes;
    }
    at = end;
  }
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
             "' is not PNG, JPEG, BMP, GIF, TGA, PSD or binary PNM, its header "
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

struct FreeStb {
  void operator()(uint8_t* pixels) const { stbi_image_free(pixels); }
};

void append_bytes(void* user, void* data, int size) {
  const auto* first = static_cast<const uint8_t*>(data);
  auto& bytes = *static_cast<std::vector<uint8_t>*>(user);
  bytes.insert(bytes.end(), first, first + size);
}

}  // namespace

Image decode_image(std::span<const uint8_t> bytes, const std::string& name) {
  // Any number of FF may come before a marker, the first one too.
  if (starts_with(bytes, "\xFF\xD8") || starts_with(bytes, "\xFF\xFF")) {
    check_jpeg_tables(bytes, name);
  }
  const auto [width, height] = read_size(bytes, name);
  check_length(bytes, width, height, name);

  constexpr stbi_io_callbacks kCallbacks = {read_source, skip_source, is_source_at_end};
  Source source{.bytes = bytes};
  int decoded_width = 0, decoded_height = 0, channels = 0;
  const std::unique_ptr<uint8_t, FreeStb> pixels(stbi_load_from_callbacks(
      &kCallbacks, &source, &decoded_width, &decoded_height, &channels, STBI_rgb));
  CLIP_CHECK(!source.ended_early, "picture '", name, "' is cut short: its data go on after its ",
             bytes.size(), " bytes");
  CLIP_CHECK(pixels != nullptr, "picture '", name, "' cannot be decoded: ", stbi_failure_reason());
  CLIP_CHECK(decoded_width == width && decoded_height == height, "picture '", name,
             "' contradicts itself: its header says ", width, " x ", height, ", its data ",
             decoded_width, " x ", decoded_height);
  return {width, height, {pixels.get(), pixels.get() + width * height * 3}};
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
  CLIP_CHECK(stbi_write_png_to_func(append_bytes, &bytes, width, height, STBI_rgb,
                                    image.pixels.data(), 3 * width) != 0,
             "picture '", path, "' cannot be encoded");

  const std::string partial = path + ".partial";
  std::ofstream file(partial, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), std::ssize(bytes));
  file.close();
  std::error_code error;
  const bool is_written = file.good();
  if (is_written) fs::rename(partial, path, error);
  if (!is_written || error) {
    std::error_code ignored;
    fs::remove(partial, ignored);
    throw Error(concat("picture '", path, "' cannot be written",
                       error ? ": " + error.message() : std::string()));
  }
}

}  // namespace clip
