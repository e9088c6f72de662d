#include "apps/common/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "engine/check.h"

namespace fs = std::filesystem;

namespace clip {
namespace {

constexpr const char* kLog = "log.jsonl";
constexpr const char* kLock = ".lock";

std::string inside(const std::string& folder, const char* file) {
  return (fs::path(folder) / file).string();
}

/// Drops what going on from `step` makes again, and a last line that a kill cut short.
void cut_log(const std::string& run, int64_t step) {
  const std::string path = inside(run, kLog);
  std::error_code absent;
  if (!fs::exists(path, absent)) return;
  std::string kept;
  for (const nlohmann::json& entry : read_log(run)) {
    const int64_t last = entry.contains("eval") ? step - 1 : step;
    if (entry["step"].get<int64_t>() <= last) kept += entry.dump() + '\n';
  }
  write_file(path, kept);
}

/// Takes the lock that says "this run is being trained". An empty file of its own holds it: the
/// others are replaced by renaming, and NFS locks no folders. It stays, for to remove it would let
/// two processes lock two files of one name.
FileDescriptor lock_run(const std::string& folder, const std::string& run) {
  FileDescriptor file(::open(inside(folder, kLock).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  CLIP_CHECK(::flock(file.number(), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK, "the run ",
             run, " is being trained by another process; stop that one first");
  return file;
}

/// Makes the folder with its config.json in it and its lock taken, so that no run is ever without.
/// A name that another run has taken, even a moment ago, is refused.
FileDescriptor make_run(const std::string& path, const std::string& config) {
  std::error_code failure;
  fs::create_directories(fs::path(path).parent_path(), failure);
  CLIP_CHECK(!failure, "cannot make the run folder ", path, ": ", failure.message());
  const AtomicFolder folder(path);
  try {
    write_file(inside(folder.temporary(), kRunConfig), config);
  } catch (const Error& error) {
    throw Error(concat("cannot make the run folder ", path, ": ", error.what()));
  }
  FileDescriptor lock = lock_run(folder.temporary(), path);
  fs::rename(folder.temporary(), path, failure);  // fails where there is a folder with files in it
  CLIP_CHECK(!fs::exists(folder.temporary()), "cannot make the run folder ", path, ": ",
             failure.message());
  return lock;
}

}  // namespace

RunFolder::RunFolder(const std::string& path, bool goes_on, bool writes)
    : path_(path), goes_on_(goes_on), writes_(writes) {
  if (goes_on && writes) lock_ = lock_run(path, path);
}

void RunFolder::open(const nlohmann::json& config, int64_t step) {
  if (!writes_) return;
  const std::string text = config.dump(2) + '\n';
  if (goes_on_) {
    cut_log(path_, step);
    write_file(inside(path_, kRunConfig), text);
    return;
  }
  std::error_code ignored;
  CLIP_CHECK(!fs::exists(path_, ignored), "the run ", path_,
             " exists already; choose another --name, or go on with --resume ", path_);
  lock_ = make_run(path_, text);
}

std::string RunFolder::checkpoint(int64_t step) const {
  return (fs::path(path_) / "checkpoints" / concat("step_", step)).string();
}

void RunFolder::log(const nlohmann::json& line) const {
  if (!writes_) return;
  const std::string path = inside(path_, kLog);
  std::ofstream file(path, std::ios::app | std::ios::binary);
  file << line.dump() + '\n' << std::flush;
  CLIP_CHECK(file.good(), "cannot write ", path, "; is the folder writable and the disk not full?");
}

std::vector<nlohmann::json> read_log(const std::string& run) {
  std::vector<nlohmann::json> entries;
  std::ifstream file(inside(run, kLog), std::ios::binary);
  for (std::string line; std::getline(file, line);) {
    nlohmann::json entry = nlohmann::json::parse(line, nullptr, false);
    if (entry.is_object() && entry.contains("step") && entry["step"].is_number())
      entries.push_back(std::move(entry));
  }
  return entries;
}

void remove_folder(const std::string& path) {
  const fs::path folder(path);
  // A temporary's name as in models/atomic_file.h: should it stay, the next write there removes it.
  const std::string name = concat('.', folder.filename().string(), ".tmp-", ::getpid(), "-0");
  std::error_code failure;
  fs::rename(folder, folder.parent_path() / name, failure);
  if (!failure) fs::remove_all(folder.parent_path() / name, failure);
  CLIP_CHECK(!failure, "cannot remove ", path, ": ", failure.message());
}

bool is_run(const std::string& path) {
  std::error_code ignored;
  return fs::is_regular_file(inside(path, kRunConfig), ignored);
}

std::string unused_run_name(const std::string& logs, const std::string& prefix) {
  for (int64_t number = 1;; ++number) {
    const std::string name = concat(prefix, '-', number);
    std::error_code ignored;
    if (!fs::exists(fs::path(logs) / name, ignored)) return name;
  }
}

std::string latest_run(const std::string& logs) {
  std::error_code failure;
  fs::path latest;
  fs::file_time_type newest{};
  for (const auto& entry : fs::directory_iterator(logs, failure)) {
    const std::string run = entry.path().string();
    if (!is_run(run) || entry.path().filename().string().starts_with('.')) continue;
    std::error_code absent;
    auto written = fs::last_write_time(inside(run, kLog), absent);
    if (absent) written = fs::last_write_time(inside(run, kRunConfig), absent);
    if (latest.empty() || written > newest) std::tie(latest, newest) = std::pair(run, written);
  }
  CLIP_CHECK(!latest.empty(), "--resume latest: there is no run under ", logs);
  return latest.string();
}

}  // namespace clip
