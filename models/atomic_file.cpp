#include "models/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "engine/check.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const char* action, const std::string& path, int error) {
  throw Error(concat("cannot ", action, " ", path, ": ", std::generic_category().message(error)));
}

// The place a path names: links are followed, so that a link stays and what it points to changes.
std::string resolved(const std::string& path) {
  std::error_code error;
  fs::path place = fs::absolute(path, error).lexically_normal();
  if (!place.has_filename()) place = place.parent_path();
  if (fs::is_symlink(place, error)) {
    const fs::path pointed = fs::canonical(place, error);
    if (!error) place = pointed;
  }
  return place.string();
}

std::string folder_of(const std::string& target) { return fs::path(target).parent_path().string(); }

void sync_folder(const std::string& folder, const std::string& path) {
  const FileDescriptor opened(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!opened.is_open()) fail("open the folder of", path, errno);
  // Some network file systems do not sync folders; EINVAL is their answer.
  if (::fsync(opened.number()) != 0 && errno != EINVAL) fail("sync", path, errno);
}

// Files that were written by other means than AtomicFile are not on the disk yet.
void sync_files(const std::string& folder, const std::string& path) {
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (std::error_code unknown; !entry->is_regular_file(unknown)) continue;
    const FileDescriptor file(::open(entry->path().c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.is_open() || ::fsync(file.number()) != 0) fail("sync", path, errno);
  }
  if (error) fail("sync", path, error.value());
}

// Takes the lock that says "my writer lives". False if the name has gone meanwhile: a process that
// cleans up may have seen the temporary in the instant before it was locked.
bool lock_temporary(const FileDescriptor& file) {
  ::flock(file.number(), LOCK_SH);  // where locks are not supported, nobody can clean up either
  struct stat status {};
  return ::fstat(file.number(), &status) == 0 && status.st_nlink > 0;
}

// True for .NAME.tmp-PID-N.
bool is_temporary_name(const std::string& name) {
  const size_t tail = name.rfind(".tmp-");
  if (name.empty() || name[0] != '.' || tail == std::string::npos || tail == 0) return false;
  const std::string numbers = name.substr(tail + 5);
  const auto is_digit_or_dash = [](char c) { return (c >= '0' && c <= '9') || c == '-'; };
  return numbers.find('-') != std::string::npos &&
         std::all_of(numbers.begin(), numbers.end(), is_digit_or_dash);
}

void remove_if_abandoned(const fs::path& temporary) {
  const FileDescriptor opened(
      ::open(temporary.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!opened.is_open() || ::flock(opened.number(), LOCK_EX | LOCK_NB) != 0) return;
  std::error_code ignored;
  fs::remove_all(temporary, ignored);
}

void remove_abandoned_temporaries(const std::string& folder) {
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error))
    if (is_temporary_name(entry->path().filename().string())) remove_if_abandoned(entry->path());
}

// Makes a locked temporary beside `target`; create() makes and opens a name, or gives -1 and errno.
template <class Create>
std::pair<std::string, FileDescriptor> make_temporary(const std::string& target,
                                                      const std::string& path,
                                                      const Create& create) {
  remove_abandoned_temporaries(folder_of(target));
  const std::string name = fs::path(target).filename().string();
  const std::string stem =
      folder_of(target) + "/." + name + ".tmp-" + std::to_string(::getpid()) + "-";
  constexpr int kTries = 10'000;
  for (int i = 0; i < kTries; ++i) {
    std::string temporary = stem + std::to_string(i);
    FileDescriptor file(create(temporary));
    if (!file.is_open()) {
      if (errno != EEXIST) fail("create", path, errno);
    } else if (lock_temporary(file)) {
      return {std::move(temporary), std::move(file)};
    }
  }
  fail("create", path, EEXIST);
}

}  // namespace

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    if (is_open()) ::close(number_);
    number_ = other.release();
  }
  return *this;
}

FileDescriptor::~FileDescriptor() {
  if (is_open()) ::close(number_);
}

int FileDescriptor::release() { return std::exchange(number_, -1); }

AtomicFile::AtomicFile(const std::string& path) : path_(path), target_(resolved(path)) {
  struct stat status {};
  const bool exists = ::stat(target_.c_str(), &status) == 0;
  if (exists && S_ISDIR(status.st_mode)) fail("write", path_, EISDIR);
  if (exists && !S_ISREG(status.st_mode)) {
    file_ = FileDescriptor(::open(target_.c_str(), O_WRONLY | O_CLOEXEC));
    if (!file_.is_open()) fail("open", path_, errno);
    return;
  }
  std::tie(temporary_, file_) = make_temporary(target_, path_, [](const std::string& temporary) {
    return ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  });
}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, int64_t bytes) {
  const char* rest = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(file_.number(), rest, static_cast<size_t>(bytes));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write", path_, errno);
    rest += written;
    bytes -= written;
  }
}

void AtomicFile::rewrite(int64_t offset, const void* data, int64_t bytes) {
  const char* rest = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written =
        ::pwrite(file_.number(), rest, static_cast<size_t>(bytes), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write", path_, errno);
    rest += written;
    offset += written;
    bytes -= written;
  }
}

void AtomicFile::commit() {
  // A full disk may be told as late as here. Pipes and devices cannot be synced: EINVAL.
  if (::fsync(file_.number()) != 0 && (errno != EINVAL || !temporary_.empty()))
    fail("write", path_, errno);
  if (!temporary_.empty()) {
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail("write", path_, errno);
    temporary_.clear();
    sync_folder(folder_of(target_), path_);
  }
  if (::close(file_.release()) != 0) fail("write", path_, errno);
}

AtomicFolder::AtomicFolder(const std::string& path) : path_(path), target_(resolved(path)) {
  std::tie(temporary_, lock_) = make_temporary(target_, path_, [](const std::string& temporary) {
    if (::mkdir(temporary.c_str(), 0777) != 0) return -1;
    const int opened = ::open(temporary.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    // A cleaner that was quicker: the name is free again, so the next one is tried.
    if (opened < 0 && errno == ENOENT) errno = EEXIST;
    return opened;
  });
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

void AtomicFolder::commit() {
  sync_files(temporary_, path_);
  sync_folder(temporary_, path_);
  if (::rename(temporary_.c_str(), target_.c_str()) == 0) {
    temporary_.clear();
  } else if (errno == ENOTEMPTY || errno == EEXIST) {
    replace();
  } else {
    fail("write", path_, errno);
  }
  // The new folder must be on the disk before the old one, now the temporary, goes.
  sync_folder(folder_of(target_), path_);
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(std::exchange(temporary_, {}), ignored);
}

// Afterwards the temporary name holds the old folder. One exchange, so that there is no moment
// without a folder of that name; where the file system knows none (NFS), two renames.
void AtomicFolder::replace() {
  if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0)
    return;
  if (errno != EINVAL && errno != ENOSYS) fail("replace", path_, errno);
  const std::string old = temporary_ + "-0";
  if (::rename(target_.c_str(), old.c_str()) != 0) fail("replace", path_, errno);
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
    const int error = errno;
    ::rename(old.c_str(), target_.c_str());
    fail("replace", path_, error);
  }
  temporary_ = old;
}

void write_folder(const std::string& path, const std::function<void(const std::string&)>& fill) {
  AtomicFolder folder(path);
  const std::string& temporary = folder.temporary();
  try {
    fill(temporary);
  } catch (const Error& error) {
    std::string text = error.what();
    for (size_t at = 0; (at = text.find(temporary, at)) != std::string::npos; at += path.size())
      text.replace(at, temporary.size(), path);
    throw Error(text);
  }
  folder.commit();
}

void write_file(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text.data(), static_cast<int64_t>(text.size()));
  file.commit();
}

FileDescriptor open_regular_file(const std::string& path, int64_t& bytes) {
  // Without O_NONBLOCK, opening a pipe would wait for its writer.
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!file.is_open()) fail("open", path, errno);
  struct stat status {};
  if (::fstat(file.number(), &status) != 0) fail("open", path, errno);
  CLIP_CHECK(!S_ISDIR(status.st_mode), "cannot read ", path, ": it is a folder");
  CLIP_CHECK(S_ISREG(status.st_mode), "cannot read ", path, ": it is no regular file");
  bytes = status.st_size;
  return file;
}

std::string read_file(const std::string& path, int64_t max_bytes) {
  int64_t bytes = 0;
  const FileDescriptor file = open_regular_file(path, bytes);
  CLIP_CHECK(bytes <= max_bytes, "cannot read ", path, ": ", bytes, " bytes are more than the ",
             max_bytes, " that such a file may have");
  std::string text(static_cast<size_t>(bytes), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(file.number(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("read", path, errno);
    if (got == 0) break;  // the file shrank meanwhile
    done += static_cast<size_t>(got);
  }
  text.resize(done);
  return text;
}

}  // namespace clip
