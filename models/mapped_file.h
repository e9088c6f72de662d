// A file in memory without reading it: pages come as they are touched and can be given back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace clip {

/// A regular file, mapped read-only. Files are replaced by renaming, which leaves a mapping as it
/// was; cutting a mapped file short in place would not.
class MappedFile {
 public:
  /// throws clip::Error that names the path
  explicit MappedFile(const std::string& path);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::string path_;
  std::span<const std::byte> bytes_;
};

/// Gives back the memory of whole pages within a mapped range; they are read again if touched.
void release_pages(std::span<const std::byte> mapped);

}  // namespace clip
