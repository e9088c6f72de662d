// The first frame of a GIF, on the screen that Pillow puts it on. (stb_image leaves out the pixels of
// the transparent colour, and those around a small frame.)
#include <algorithm>
#include <array>
#include <utility>

#include "engine/check.h"
#include "models/image_decoders.h"

namespace clip {
namespace {

using Bytes = std::span<const uint8_t>;
using Color = std::array<uint8_t, 3>;

/// Bytes one after the other; reading past the end is an error.
class Reader {
 public:
  Reader(Bytes bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  Bytes take(size_t count) {
    CLIP_CHECK(count <= bytes_.size() - at_, "picture '", name_,
               "' is cut short: its data go on after its ", bytes_.size(), " bytes");
    at_ += count;
    return bytes_.subspan(at_ - count, count);
  }
  int64_t byte() { return take(1)[0]; }
  int64_t word() {
    const Bytes two = take(2);
    return two[0] + 256 * two[1];
  }
  /// The next of a chain of blocks, each with its length before it; the last is empty.
  Bytes block() { return take(static_cast<size_t>(byte())); }

  const std::string& name() const { return name_; }

 private:
  Bytes bytes_;
  size_t at_ = 0;
  const std::string& name_;
};

/// The palette that `flags` announces: 2, 4, ... 256 colours, or none.
std::vector<Color> read_palette(Reader& reader, int64_t flags) {
  if ((flags & 0x80) == 0) return {};
  std::vector<Color> palette(size_t{2} << (flags & 7));
  for (Color& color : palette) std::ranges::copy(reader.take(3), color.begin());
  return palette;
}

/// Codes of growing width out of a chain of blocks, lowest bits first.
class CodeReader {
 public:
  explicit CodeReader(Reader& reader) : reader_(reader) {}

  int next(int width) {
    for (; bits_ < width; bits_ += 8) {
      if (block_.empty()) block_ = reader_.block();
      CLIP_CHECK(!block_.empty(), "picture '", reader_.name(),
                 "' is cut short: its data end before the picture does");
      value_ |= uint32_t{block_.front()} << bits_;
      block_ = block_.subspan(1);
    }
    const auto code = static_cast<int>(value_ & ((1u << width) - 1));
    value_ >>= width;
    bits_ -= width;
    return code;
  }

 private:
  Reader& reader_;
  Bytes block_;
  uint32_t value_ = 0;
  int bits_ = 0;
};

/// `count` palette indices. A code stands for a code seen earlier and one more index.
std::vector<uint8_t> read_indices(Reader& reader, size_t count) {
  constexpr int kMaxCodes = 4096;
  const auto first_width = static_cast<int>(reader.byte());
  CLIP_CHECK(1 <= first_width && first_width <= 8, "picture '", reader.name(),
             "' is damaged: its codes must start with 1 to 8 bits, got ", first_width);
  const int clear = 1 << first_width, end = clear + 1;
  std::vector<int> prefix(kMaxCodes);
  std::vector<uint8_t> suffix(kMaxCodes), stack, indices;
  for (int i = 0; i < clear; ++i) suffix[static_cast<size_t>(i)] = static_cast<uint8_t>(i);

  CodeReader codes(reader);
  int width = first_width + 1, known = end + 1, previous = -1;
  uint8_t first = 0;  // index of the previous code
  while (indices.size() < count) {
    const int code = codes.next(width);
    CLIP_CHECK(code != end, "picture '", reader.name(),
               "' is cut short: its data end before the picture does");
    if (code == clear) {
      width = first_width + 1;
      known = end + 1;
      previous = -1;
      continue;
    }
    CLIP_CHECK(
        code < clear || (previous >= 0 && code <= known && (code < known || known < kMaxCodes)),
        "picture '", reader.name(), "' is damaged: it has the code ", code, " of ", known);
    int at = code;
    if (code == known) {  // the code being made: the previous one and its own first index
      stack.push_back(first);
      at = previous;
    }
    for (; at >= clear; at = prefix[static_cast<size_t>(at)])
      stack.push_back(suffix[static_cast<size_t>(at)]);
    first = static_cast<uint8_t>(at);
    indices.push_back(first);
    for (; !stack.empty(); stack.pop_back()) indices.push_back(stack.back());
    if (previous >= 0 && known < kMaxCodes) {
      prefix[static_cast<size_t>(known)] = previous;
      suffix[static_cast<size_t>(known)] = first;
      ++known;
      if (known == 1 << width && width < 12) ++width;
    }
    previous = code;
  }
  return indices;
}

/// The rows of an interlaced frame in the order of their storing.
std::vector<int64_t> row_order(int64_t height, bool interlaced) {
  std::vector<int64_t> rows;
  constexpr std::array<std::pair<int64_t, int64_t>, 4> kPasses = {{{0, 8}, {4, 8}, {2, 4}, {1, 2}}};
  for (const auto& [first, step] : kPasses) {
    for (int64_t y = interlaced ? first : std::ssize(rows); y < height; y += interlaced ? step : 1)
      rows.push_back(y);
  }
  return rows;
}

}  // namespace

Image decode_gif(std::span<const uint8_t> bytes, const std::string& name) {
  Reader reader(bytes, name);
  reader.take(6);  // the signature
  const int64_t screen_width = reader.word(), screen_height = reader.word();
  const int64_t screen_flags = reader.byte();
  reader.take(2);  // the background, which Pillow does not use, and the aspect
  std::vector<Color> palette = read_palette(reader, screen_flags);

  constexpr int64_t kExtension = 0x21, kFrame = 0x2C, kEnd = 0x3B, kGraphicControl = 0xF9;
  int64_t around = 0;  // the colour where the frame is not: the transparent one, if there is one
  for (int64_t kind = reader.byte(); kind != kFrame; kind = reader.byte()) {
    CLIP_CHECK(kind != kEnd, "picture '", name, "' is damaged: it has no frame");
    if (kind != kExtension) continue;
    const int64_t label = reader.byte();
    Bytes block = reader.block();
    if (label == kGraphicControl && block.size() >= 4 && (block[0] & 1) != 0) around = block[3];
    while (!block.empty()) block = reader.block();
  }
  const int64_t left = reader.word(), top = reader.word();
  const int64_t width = reader.word(), height = reader.word(), flags = reader.byte();
  if ((flags & 0x80) != 0) palette = read_palette(reader, flags);
  if (palette.empty()) {
    for (int i = 0; i < 256; ++i)
      palette.push_back(
          {static_cast<uint8_t>(i), static_cast<uint8_t>(i), static_cast<uint8_t>(i)});
  }
  palette.resize(256);  // beyond a short one: black

  // A frame may reach beyond the screen, which then grows.
  Image image{std::max(screen_width, left + width), std::max(screen_height, top + height), {}};
  CLIP_CHECK(width > 0 && height > 0, "picture '", name, "' must have pixels, got ", width, " x ",
             height);
  CLIP_CHECK(image.width * image.height <= kMaxImagePixels, "picture '", name,
             "' must have at most ", kMaxImagePixels, " pixels, got ", image.width, " x ",
             image.height);
  const auto indices = read_indices(reader, static_cast<size_t>(width * height));
  const Color& fill = palette[static_cast<size_t>(around)];
  image.pixels.resize(static_cast<size_t>(image.width * image.height * 3));
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = fill[i % 3];
  const uint8_t* index = indices.data();
  for (const int64_t y : row_order(height, (flags & 0x40) != 0)) {
    uint8_t* row = image.pixels.data() + ((top + y) * image.width + left) * 3;
    for (int64_t x = 0; x < width; ++x, row += 3) std::ranges::copy(palette[*index++], row);
  }
  return image;
}

}  // namespace clip
