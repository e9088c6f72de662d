// Zip archives as PyTorch packs its files: what matters is stored as it is, so a member's bytes are
// a range of the mapped file. Source: PKWARE's APPNOTE.TXT, sections 4.3 to 4.5.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "models/atomic_file.h"
#include "models/mapped_file.h"

namespace clip {

/// An archive being read; its directory is checked whole before any member is handed out.
class ZipFile {
 public:
  /// file      must outlive it
  /// throws clip::Error that names the path and what is wrong: no archive, cut short, members that
  /// overlap or share a name. Checksums are not computed
  explicit ZipFile(const MappedFile& file);

  using Bytes = std::span<const std::byte>;
  /// Those that are stored as they are; compressed ones (TorchScript's code) cannot be had.
  const std::map<std::string, Bytes>& members() const { return members_; }
  const std::string& path() const { return file_.path(); }

 private:
  void read_directory(int64_t place, int64_t bytes, int64_t count);
  Bytes locate(const std::string& name, int64_t header_place, int64_t bytes,
               int64_t directory_place) const;

  const MappedFile& file_;
  std::map<std::string, Bytes> members_;
};

/// Whether a file begins as zip archives do.
bool is_zip(std::span<const std::byte> bytes);

/// An archive being written; like AtomicFile, nothing of it remains without commit().
class ZipWriter {
 public:
  explicit ZipWriter(const std::string& path) : path_(path), file_(path) {}

  /// Begins a member of known size; its bytes start at a multiple of 64, as PyTorch has them.
  /// throws clip::Error beyond 4 GB, where the plain format ends
  void begin(const std::string& name, int64_t bytes);
  void write(const void* data, int64_t bytes);  ///< the next bytes of the member begun last
  void commit();

 private:
  struct Member {
    std::string name;
    int64_t place = 0, bytes = 0;
    uint32_t checksum = 0;
  };
  void append(const void* data, int64_t bytes);
  void finish_member();

  std::string path_;
  AtomicFile file_;
  std::string directory_;
  Member member_;
  int64_t size_ = 0, count_ = 0;
};

}  // namespace clip
