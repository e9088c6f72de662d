// Files and folders that appear whole or not at all: written under a temporary name beside the
// final one, synced, renamed.
//
// A temporary is called .NAME.tmp-PID-N and is locked (flock) as long as its writer lives. One that
// nobody locks was left by a process that died; the next write into the same folder removes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace clip {

/// An open file; closed when it goes.
class FileDescriptor {
 public:
  explicit FileDescriptor(int number = -1) : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();

  int number() const { return number_; }
  bool is_open() const { return number_ >= 0; }
  int release();  ///< the caller closes it

 private:
  int number_;
};

/// A file being written. Without commit() nothing of it remains. If `path` names something that is
/// no regular file (a pipe, a device), that is written to directly. Every member throws clip::Error
/// that names `path` and the reason.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(const void* data, int64_t bytes);
  /// Writes over bytes that are written already; not in a pipe.
  void rewrite(int64_t offset, const void* data, int64_t bytes);
  void commit();

 private:
  std::string path_;
  std::string target_;     // path_, or what it links to
  std::string temporary_;  // empty: written directly, or committed
  FileDescriptor file_;
};

/// A folder being filled. Without commit() nothing of it remains.
class AtomicFolder {
 public:
  /// The folder that `path` lies in must exist.
  explicit AtomicFolder(const std::string& path);
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;
  ~AtomicFolder();

  const std::string& temporary() const { return temporary_; }  ///< where its files are written
  /// Syncs the files in it and gives it its name; a folder of that name is replaced and removed.
  void commit();

 private:
  void replace();

  std::string path_;
  std::string target_;
  std::string temporary_;
  FileDescriptor lock_;
};

/// AtomicFolder filled by `fill(its temporary name)`, whose errors name `path` instead.
void write_folder(const std::string& path, const std::function<void(const std::string&)>& fill);

/// AtomicFile with one write.
void write_file(const std::string& path, std::string_view text);

/// A whole regular file.
/// throws clip::Error that names the path: not there, a folder, or longer than `max_bytes`
std::string read_file(const std::string& path, int64_t max_bytes);

/// Opens a regular file for reading and tells its size; a pipe or a folder is refused, not waited
/// for.
FileDescriptor open_regular_file(const std::string& path, int64_t& bytes);

}  // namespace clip
