// JPEG where the build finds no libjpeg-turbo: by stb_image, whose pixels differ by a few steps.
#include "engine/check.h"
#include "models/image_decoders.h"

namespace clip {
namespace {

using Bytes = std::span<const uint8_t>;

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

}  // namespace

bool jpeg_equals_pillow() { return false; }

Image decode_jpeg(std::span<const uint8_t> bytes, const std::string& name) {
  check_jpeg_tables(bytes, name);
  return decode_with_stb(bytes, name);
}

}  // namespace clip
