#include "models/dataset.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include "models/dataset_files.h"
#include "models/labelled_pictures.h"

namespace fs = std::filesystem;

namespace clip {

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

bool is_picture_extension(std::string_view extension) {
  // WebP cannot be read: that it was met is told, which leaving it out would not.
  constexpr std::array<std::string_view, 10> kKnown = {"png", "jpg", "jpeg", "bmp", "gif",
                                                       "tga", "ppm", "pgm",  "pnm", "webp"};
  return std::find(kKnown.begin(), kKnown.end(), lower_case(extension)) != kKnown.end();
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\v\f";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

std::string read_whole_file(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  CLIP_CHECK(file, "cannot open ", path, ": ", std::strerror(errno));
  // A folder opens, too; reading it is what fails.
  std::error_code ignored;
  CLIP_CHECK(!fs::is_directory(path, ignored), "cannot read ", path, ": it is a folder");
  std::string text;
  std::vector<char> block(1 << 16);
  do {
    file.read(block.data(), static_cast<std::streamsize>(block.size()));
    text.append(block.data(), static_cast<size_t>(file.gcount()));
  } while (file);
  CLIP_CHECK(file.eof(), "cannot read ", path, ": ", std::strerror(errno));
  return text;
}

Image load_sample_image(const std::string& path) {
  try {
    return load_image(path);
  } catch (const Error& error) {
    throw BrokenSample(error.what());
  }
}

std::vector<std::string> files_under(const std::string& path) {
  std::vector<std::string> files;
  try {
    for (fs::recursive_directory_iterator entry(path), end; entry != end; ++entry) {
      std::error_code broken_link;
      if (entry->path().filename().string().starts_with('.')) {
        entry.disable_recursion_pending();
      } else if (entry->is_regular_file(broken_link)) {
        files.push_back(entry->path().string());
      }
    }
  } catch (const fs::filesystem_error& error) {
    throw Error(concat("cannot list the folder ", path, ": ", error.code().message()));
  }
  std::sort(files.begin(), files.end());
  return files;
}

DataKind data_kind(const std::string& data) {
  std::error_code ignored;
  if (fs::is_directory(data, ignored)) return DataKind::kFolder;
  const std::string lower = lower_case(data);
  if (lower.ends_with(".csv") || lower.ends_with(".tsv")) return DataKind::kCsv;
  // ".tar.gz" and ".tgz" go there for the sentence that says what to do about them.
  for (const char* sign : {".tar", ".tgz", "{", "}", "::"}) {
    if (lower.find(sign) != std::string::npos) return DataKind::kTar;
  }
  return DataKind::kUnknown;
}

std::unique_ptr<Dataset> open_dataset(const std::string& train_data, const CsvOptions& options,
                                      Split split) {
  switch (data_kind(train_data)) {
    case DataKind::kFolder:
      if (auto pictures = find_labelled_files(train_data, split))
        return caption_by_class(std::move(*pictures));
      return open_folder_dataset(train_data);
    case DataKind::kCsv:
      return open_csv_dataset(train_data, options);
    case DataKind::kTar:
      return open_tar_dataset(train_data);
    case DataKind::kUnknown:
      break;
  }
  throw UsageError(
      concat("cannot tell what data '", train_data,
             "' is: expected a folder that exists, a .csv or .tsv file, or .tar shards"));
}

}  // namespace clip
