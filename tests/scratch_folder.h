// A fresh folder for a test's files, removed with all it holds when the test ends.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include "engine/check.h"

namespace clip {

/// The bytes of a file; empty if it is not there.
inline std::string file_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "clip_test_XXXXXX").string();
    CLIP_CHECK(mkdtemp(name.data()) != nullptr, "cannot make the folder ", name);
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  /// The path of a file or folder in it; folders on the way are made.
  std::string path(const std::string& name = "") const {
    const std::filesystem::path path = name.empty() ? path_ : path_ / name;
    std::filesystem::create_directories(path.parent_path());
    return path.string();
  }

  /// Writes a file and returns its path.
  std::string write(const std::string& name, std::string_view bytes) const {
    const std::string file_path = path(name);
    std::ofstream file(file_path, std::ios::binary);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    CLIP_CHECK(file.flush(), "cannot write ", file_path);
    return file_path;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace clip
