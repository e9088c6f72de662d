// What the readers of data sets share. Private to models/.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/dataset.h"
#include "models/image.h"

namespace clip {

/// Data sets that must read their captions from the disk hand out at most this many.
inline constexpr int64_t kMaxVocabularyCaptions = 200'000;

/// What an argument's form says that it is.
enum class DataKind { kFolder, kCsv, kTar, kUnknown };
DataKind data_kind(const std::string& data);

/// The extensions below, as error sentences list them.
inline constexpr std::string_view kPictureExtensions = "png, jpg, jpeg, bmp, gif, tga, ppm or pgm";

/// `extension` without its dot, in any case.
bool is_picture_extension(std::string_view extension);

/// ASCII letters to lower case.
std::string lower_case(std::string_view text);

/// Cuts white space at both ends.
std::string_view trim(std::string_view text);

/// The whole file; throws clip::Error that names the path and the reason.
std::string read_whole_file(const std::string& path);

/// load_image, with any clip::Error turned into BrokenSample.
Image load_sample_image(const std::string& path);

/// Every regular file under a folder, sorted; hidden files and folders are left out, links to files
/// are followed, links to folders not.
/// throws clip::Error if a folder cannot be read
std::vector<std::string> files_under(const std::string& path);

/// At most kMaxVocabularyCaptions of `size` captions, evenly spaced; unreadable ones are left out.
template <class CaptionAt>
std::vector<std::string> spread_captions(int64_t size, const CaptionAt& caption_at) {
  const int64_t count = std::min(size, kMaxVocabularyCaptions);
  std::vector<std::string> captions;
  captions.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    try {
      captions.push_back(caption_at(i * size / count));
    } catch (const BrokenSample&) {
      // The loader counts and names it when training reaches it.
    }
  }
  return captions;
}

}  // namespace clip
