// JPEG by libjpeg-turbo, set up as Pillow sets it up: exact (slow integer) cosine transform, smooth
// upsampling of colour, the colour space that the library reads from the markers.
//
// The library reports errors by a call that must not return. It jumps back to the setjmp of the
// member function that called the library: no frame from there on, its own included, may hold an
// object with a destructor.
#include <csetjmp>
#include <utility>
// clang-format off
#include <cstdio>  // jpeglib.h needs FILE
#include <jpeglib.h>
// clang-format on

#include "engine/check.h"
#include "models/image_decoders.h"

namespace clip {
namespace {

/// Progressive files of hostile making repeat scans to keep a decoder busy; real ones have a dozen.
constexpr int kMaxScans = 200;

/// value1 * value2 / 255, rounded, in whole numbers.
uint8_t multiply(int value1, int value2) {
  const int product = value1 * value2 + 128;
  return static_cast<uint8_t>((product + (product >> 8)) >> 8);
}

class JpegDecoder {
 public:
  explicit JpegDecoder(std::span<const uint8_t> bytes) {
    info_.err = jpeg_std_error(&errors_);
    info_.client_data = this;
    errors_.error_exit = [](j_common_ptr info) {
      info->err->format_message(info, of(info).message_);
      of(info).fail();
    };
    errors_.emit_message = [](j_common_ptr, int) {};  // Pillow ignores warnings, too
    if (setjmp(failed_) != 0) return;                 // message_ says why; no step will succeed
    jpeg_create_decompress(&info_);
    source_.init_source = [](j_decompress_ptr) {};
    source_.term_source = [](j_decompress_ptr) {};
    source_.resync_to_restart = jpeg_resync_to_restart;
    source_.fill_input_buffer = [](j_decompress_ptr info) -> boolean {
      of(info).fail("it is cut short: its data end before the picture does");
    };
    source_.skip_input_data = [](j_decompress_ptr info, long count) {
      jpeg_source_mgr& source = *info->src;
      if (count <= 0) return;
      if (static_cast<size_t>(count) > source.bytes_in_buffer) source.fill_input_buffer(info);
      source.next_input_byte += count;
      source.bytes_in_buffer -= static_cast<size_t>(count);
    };
    source_.next_input_byte = bytes.data();
    source_.bytes_in_buffer = bytes.size();
    info_.src = &source_;
    progress_.progress_monitor = [](j_common_ptr info) {
      const auto* decompress = reinterpret_cast<j_decompress_ptr>(info);
      if (decompress->input_scan_number > kMaxScans) of(info).fail("it has too many scans");
    };
    info_.progress = &progress_;
    is_ready_ = true;
  }
  ~JpegDecoder() { jpeg_destroy_decompress(&info_); }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  /// Each step returns whether it succeeded; if not, message() says why.
  bool read_header() {
    if (!is_ready_ || setjmp(failed_) != 0) return false;
    jpeg_read_header(&info_, TRUE);
    if (info_.num_components == 4) info_.out_color_space = JCS_CMYK;
    if (info_.num_components == 3) info_.out_color_space = JCS_RGB;
    return true;
  }

  /// rows must have room for width * height * channels bytes
  bool read_rows(uint8_t* rows) {
    if (setjmp(failed_) != 0) return false;
    jpeg_start_decompress(&info_);
    const size_t stride = size_t{info_.output_width} * static_cast<size_t>(channels());
    while (info_.output_scanline < info_.output_height) {
      JSAMPROW row = rows + info_.output_scanline * stride;
      jpeg_read_scanlines(&info_, &row, 1);
    }
    return true;
  }

  int64_t width() const { return info_.image_width; }
  int64_t height() const { return info_.image_height; }
  int channels() const { return info_.num_components; }
  const char* message() const { return message_; }

 private:
  template <class Info>
  static JpegDecoder& of(Info* info) {
    return *static_cast<JpegDecoder*>(info->client_data);
  }

  [[noreturn]] void fail(const char* message) {
    std::snprintf(message_, sizeof message_, "%s", message);
    fail();
  }
  [[noreturn]] void fail() { std::longjmp(failed_, 1); }

  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_{};
  jpeg_source_mgr source_{};
  jpeg_progress_mgr progress_{};
  std::jmp_buf failed_{};
  char message_[JMSG_LENGTH_MAX] = "";
  bool is_ready_ = false;
};

/// One byte each to three; CMYK as Adobe stores it, 255 for no ink.
void to_rgb(Image& image, const std::vector<uint8_t>& values, int channels) {
  image.pixels.resize(static_cast<size_t>(image.width * image.height * 3));
  uint8_t* rgb = image.pixels.data();
  for (size_t i = 0; i < values.size(); i += static_cast<size_t>(channels), rgb += 3) {
    for (size_t c = 0; c < 3; ++c) {
      if (channels == 1) {
        rgb[c] = values[i];
      } else {
        const uint8_t light = values[i + 3];
        rgb[c] = static_cast<uint8_t>(light - multiply(255 - values[i + c], light));
      }
    }
  }
}

}  // namespace

bool jpeg_equals_pillow() { return true; }

Image decode_jpeg(std::span<const uint8_t> bytes, const std::string& name) {
  JpegDecoder decoder(bytes);
  CLIP_CHECK(decoder.read_header(), "picture '", name, "' cannot be decoded: ", decoder.message());
  Image image{decoder.width(), decoder.height(), {}};
  const int channels = decoder.channels();
  CLIP_CHECK(image.width * image.height <= kMaxImagePixels, "picture '", name,
             "' must have at most ", kMaxImagePixels, " pixels, got ", image.width, " x ",
             image.height);
  CLIP_CHECK(channels == 1 || channels == 3 || channels == 4, "picture '", name,
             "' must have 1, 3 or 4 colour components, got ", channels);
  std::vector<uint8_t> values(static_cast<size_t>(image.width * image.height * channels));
  CLIP_CHECK(decoder.read_rows(values.data()), "picture '", name,
             "' cannot be decoded: ", decoder.message());
  if (channels == 3) {
    image.pixels = std::move(values);
  } else {
    to_rgb(image, values, channels);
  }
  return image;
}

}  // namespace clip
