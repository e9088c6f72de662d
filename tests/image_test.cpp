// Decoding against stored results of Pillow, and of bytes that are no picture.
#include "models/image.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "engine/check.h"
#include "models/image_decoders.h"
#include "tests/image_reference.h"
#include "tests/reference_path.h"
#include "tests/scratch_folder.h"

namespace clip {
namespace {

using Bytes = std::vector<uint8_t>;

Bytes read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

Bytes reference_bytes(const std::string& name) {
  return read_bytes(reference_path("images/" + name));
}

std::vector<std::string> reference_pictures() {
  std::vector<std::string> names;
  for (const std::string& line : reference_lines("image_files.txt")) {
    names.push_back(line.substr(0, line.find(' ')));
  }
  return names;
}

/// The picture, or nothing if decode_image refuses it.
std::optional<Image> try_decode(const Bytes& bytes) {
  try {
    return decode_image(bytes, "test");
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::string decode_error(const Bytes& bytes) {
  try {
    decode_image(bytes, "shard.tar: 7.png");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

void append_big_endian(Bytes& bytes, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8)
    bytes.push_back(static_cast<uint8_t>(value >> shift));
}

/// A PNG of 8-bit greys that ends after its header.
Bytes png_header(uint32_t width, uint32_t height) {
  Bytes bytes = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n', 0, 0, 0, 13, 'I', 'H', 'D', 'R'};
  append_big_endian(bytes, width);
  append_big_endian(bytes, height);
  bytes.insert(bytes.end(), {8, 0, 0, 0, 0, 0, 0, 0, 0});
  return bytes;
}

Bytes bytes_of(std::string_view text) { return {text.begin(), text.end()}; }

/// Every stored file of the kinds asked for has Pillow's pixels.
void expect_pillows_pixels(bool jpeg) {
  for (const std::string& line : reference_lines("image_files.txt")) {
    SCOPED_TRACE(line);
    std::istringstream in(line);
    std::string name;
    int64_t width = 0, height = 0;
    in >> name >> width >> height;
    if (name.ends_with(".jpg") != jpeg) continue;
    const Image image = load_image(reference_path("images/" + name));
    EXPECT_EQ(image.width, width);
    EXPECT_EQ(image.height, height);
    expect_equal(image, read_summary(in));
  }
}

TEST(DecodeImage, EqualsPillowForEveryKindWithoutLoss) { expect_pillows_pixels(false); }

TEST(DecodeImage, EqualsPillowForJpegWhereLibjpegTurboDecodesIt) {
  if (!jpeg_equals_pillow()) GTEST_SKIP() << "this build decodes JPEG by stb_image";
  expect_pillows_pixels(true);
}

TEST(DecodeImage, ComesCloseToPillowForJpegByStbImage) {
  // stb_image and libjpeg round the inverse cosine transform, the smoothing of colour and the
  // change of colour space differently: by up to 2 steps in these files; one more for other versions.
  for (const std::string name :
       {"full_color", "half_color", "progressive", "restarts", "grey", "cmyk"}) {
    SCOPED_TRACE(name);
    const Image image = decode_with_stb(reference_bytes(name + ".jpg"), name);
    const Bytes expected = reference_bytes(name + ".rgb");
    EXPECT_EQ(image.width, 23);
    EXPECT_EQ(image.height, 17);
    ASSERT_EQ(image.pixels.size(), expected.size());
    int worst = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      worst = std::max(worst, std::abs(image.pixels[i] - expected[i]));
    }
    EXPECT_LE(worst, 3);
  }
}

TEST(DecodeImage, OfAnyPrefixIsAnErrorOrTheSamePicture) {
  for (const std::string& name : reference_pictures()) {
    const Bytes bytes = reference_bytes(name);
    const Image whole = decode_image(bytes, name);
    for (size_t length = 0; length < bytes.size(); ++length) {
      const auto image = try_decode({bytes.begin(), bytes.begin() + static_cast<int64_t>(length)});
      if (image) {
        EXPECT_EQ(image->pixels, whole.pixels) << name << " cut to " << length;
      }
    }
  }
}

TEST(DecodeImage, CallsACutJpegCutShortInsteadOfFillingItWithGrey) {
  Bytes bytes = reference_bytes("half_color.jpg");
  bytes.resize(bytes.size() - 40);
  EXPECT_NE(decode_error(bytes).find("is cut short"), std::string::npos) << decode_error(bytes);
}

TEST(DecodeImage, RefusesHuffmanTablesOfTooManyCodes) {
  Bytes bytes = reference_bytes("full_color.jpg");
  const std::array<uint8_t, 2> marker = {0xFF, 0xC4};
  const auto table = std::search(bytes.begin(), bytes.end(), marker.begin(), marker.end());
  ASSERT_NE(table, bytes.end());
  // After the marker, two bytes of length and one of class come the 16 counts: 16 * 60 codes.
  std::fill_n(table + 5, 16, uint8_t{60});
  EXPECT_NE(decode_error(bytes).find("Huffman table"), std::string::npos) << decode_error(bytes);
}

TEST(DecodeImage, RefusesJpegsOfEndlesslyManyScans) {
  if (!jpeg_equals_pillow()) GTEST_SKIP() << "this build decodes JPEG by stb_image";
  const Bytes whole = reference_bytes("jpeg_420_progressive.jpg");
  const std::array<uint8_t, 2> marker = {0xFF, 0xDA};
  const auto scan = std::find_end(whole.begin(), whole.end(), marker.begin(), marker.end());
  const auto end = whole.end() - 2;
  Bytes bytes(whole.begin(), end);
  for (int i = 0; i < 300; ++i) bytes.insert(bytes.end(), scan, end);
  bytes.insert(bytes.end(), end, whole.end());
  EXPECT_NE(decode_error(bytes).find("too many scans"), std::string::npos) << decode_error(bytes);
}

TEST(DecodeImage, NamesWebpAsWhatItIs) {
  const std::string message = decode_error(bytes_of("RIFF\x10\x01\x01\x01WEBPVP8 "));
  EXPECT_NE(message.find("is WebP, which is not supported"), std::string::npos) << message;
}

TEST(DecodeImage, WorksInManyThreadsAtOnce) {
  std::atomic<int> wrong = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (const std::string name : {"half_color.jpg", "jpeg_420_progressive.jpg", "large.gif"}) {
          Bytes bytes = reference_bytes(name);
          const Image whole = decode_image(bytes, name);
          for (int round = 0; round < 20; ++round)
            if (decode_image(bytes, name).pixels != whole.pixels) ++wrong;
          bytes.resize(bytes.size() / 2);
          if (try_decode(bytes).has_value()) ++wrong;
        }
      });
    }
  }
  EXPECT_EQ(wrong, 0);
}

TEST(DecodeImage, IgnoresBytesAfterThePicture) {
  for (const std::string& name : reference_pictures()) {
    Bytes bytes = reference_bytes(name);
    const Image image = decode_image(bytes, name);
    bytes.insert(bytes.end(), 300, 0xA5);
    EXPECT_EQ(decode_image(bytes, name).pixels, image.pixels) << name;
  }
}

TEST(DecodeImage, OfDamagedPicturesIsAnErrorOrSomePictureOfItsSize) {
  Random random(13, 14);
  int refused = 0;
  for (const std::string& name : reference_pictures()) {
    for (int attempt = 0; attempt < 60; ++attempt) {
      Bytes bytes = reference_bytes(name);
      for (int i = 0; i < 4; ++i) {
        bytes[static_cast<size_t>(random.below(std::ssize(bytes)))] =
            static_cast<uint8_t>(random.bits());
      }
      const auto image = try_decode(bytes);
      if (!image) {
        ++refused;
      } else {
        EXPECT_EQ(std::ssize(image->pixels), image->width * image->height * 3);
        EXPECT_GT(std::ssize(image->pixels), 0);
      }
    }
  }
  EXPECT_GT(refused, 0);
}

TEST(DecodeImage, RefusesNoiseBehindEverySignature) {
  Random random(15, 16);
  for (const std::string_view signature :
       {"\xFF\xD8\xFF", "\x89PNG\r\n\x1a\n", "BM", "GIF89a", "8BPS", "P6 ", "xyz"}) {
    for (int attempt = 0; attempt < 100; ++attempt) {
      Bytes bytes = bytes_of(signature);
      while (bytes.size() < 400) bytes.push_back(static_cast<uint8_t>(random.bits() | 1));
      EXPECT_THROW(decode_image(bytes, "noise"), Error) << signature;
    }
  }
}

TEST(DecodeImage, NamesThePictureInItsErrors) {
  for (const Bytes& bytes : {Bytes{}, bytes_of("hello"), png_header(20, 20)}) {
    EXPECT_NE(decode_error(bytes).find("'shard.tar: 7.png'"), std::string::npos)
        << decode_error(bytes);
  }
}

TEST(DecodeImage, RefusesHugePicturesFromTheirHeaderAtOnce) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_NE(decode_error(png_header(10'001, 10'000)).find("10001 x 10000"), std::string::npos);
  EXPECT_NE(decode_error(png_header(100'000, 100'000)).find("100000000 pixels"), std::string::npos);
  EXPECT_THROW(decode_image(png_header(0xFFFFFFFF, 0xFFFFFFFF), "huge"), Error);
  // A second is far more than a look at the header takes, and less than filling 10 GB.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
}

TEST(DecodeImage, RefusesHugeJpegsAndGifsFromTheirHeader) {
  Bytes jpeg = reference_bytes("full_color.jpg");
  const std::array<uint8_t, 2> frame = {0xFF, 0xC0};
  const auto at = std::search(jpeg.begin(), jpeg.end(), frame.begin(), frame.end());
  ASSERT_NE(at, jpeg.end());
  std::fill_n(at + 5, 4, uint8_t{0x7F});  // height and width
  EXPECT_NE(decode_error(jpeg).find("32639 x 32639"), std::string::npos) << decode_error(jpeg);
  Bytes gif = reference_bytes("plain.gif");
  std::fill_n(gif.begin() + 6, 4, uint8_t{0xFF});
  EXPECT_NE(decode_error(gif).find("65535 x 65535"), std::string::npos) << decode_error(gif);
}

TEST(DecodeImage, RefusesPicturesWithoutPixels) {
  EXPECT_THROW(decode_image(png_header(0, 5), "empty"), Error);
  EXPECT_THROW(decode_image(bytes_of("P6 0 0 255\n"), "empty"), Error);
}

TEST(DecodeImage, RefusesPnmOfOtherMaximaThan255) {
  for (const std::string_view text : {"P5 1 1 65535\nab", "P5 1 1 15\na", "P5 1 1 \n", "P5 1 1"}) {
    EXPECT_THROW(decode_image(bytes_of(text), "pnm"), Error) << text;
  }
}

TEST(DecodeImage, SkipsCommentsInPnmHeaders) {
  const Image image = decode_image(bytes_of("P6 # made by hand\n1 1\n# white: 9\n255\nabc"), "pnm");
  EXPECT_EQ(pixel(image, 0, 0), (std::array<int, 3>{'a', 'b', 'c'}));
}

TEST(DecodeImage, RefusesKindsThatItDoesNotPromise) {
  EXPECT_THROW(decode_image(bytes_of("#?RADIANCE\n\n-Y 1 +X 1\nabcdabcdabcd"), "hdr"), Error);
  Bytes pic = {0x53, 0x80, 0xF6, 0x34};
  pic.resize(200);
  EXPECT_THROW(decode_image(pic, "pic"), Error);
}

TEST(LoadImage, RefusesMissingPathsFoldersAndEmptyFiles) {
  const ScratchFolder folder;
  EXPECT_THROW(load_image(folder.path("missing.png")), Error);
  EXPECT_THROW(load_image(folder.path()), Error);
  std::ofstream(folder.path("empty.png")).close();
  EXPECT_THROW(load_image(folder.path("empty.png")), Error);
}

TEST(SavePng, WritesWhatLoadImageReads) {
  const ScratchFolder folder;
  const Image image = synthetic_picture(29, 13);
  save_png(image, folder.path("a.png"));
  const Image loaded = load_image(folder.path("a.png"));
  EXPECT_EQ(loaded.width, 29);
  EXPECT_EQ(loaded.height, 13);
  EXPECT_EQ(loaded.pixels, image.pixels);
  const std::filesystem::directory_iterator files(folder.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);  // nothing of another name is left
}

TEST(SavePng, RefusesPathsThatCannotBeWrittenAndPicturesWithoutPixels) {
  const ScratchFolder folder;
  EXPECT_THROW(save_png(synthetic_picture(2, 2), folder.path() + "/missing/a.png"), Error);
  EXPECT_THROW(save_png(synthetic_picture(2, 2), folder.path()), Error);
  EXPECT_THROW(save_png(Image{}, folder.path("a.png")), Error);
  EXPECT_FALSE(std::filesystem::exists(folder.path("a.png")));
}

}  // namespace
}  // namespace clip
