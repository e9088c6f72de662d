// A run's folder: config.json, log.jsonl, checkpoints/step_<k>/, report.html.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/atomic_file.h"

namespace clip {

inline constexpr const char* kRunConfig = "config.json";

class RunFolder {
 public:
  /// Names the folder; of a run that goes on it also takes the lock. That is held as long as the
  /// process lives, however it ends; where a file system knows no locks, it holds nobody back.
  /// goes_on   it is the folder of a run that is resumed, not a new one's
  /// writes    false: writes and locks nothing, now and later: of several ranks only one does
  /// throws clip::Error if another process has the lock
  RunFolder(const std::string& path, bool goes_on, bool writes = true);

  /// Makes a new run's folder, locked, or cuts the log of the one to go on in after `step`: what came
  /// later is made again.
  /// throws clip::Error that names the path if it cannot be written, or a new run's exists
  void open(const nlohmann::json& config, int64_t step);

  const std::string& path() const { return path_; }
  bool writes() const { return writes_; }
  std::string checkpoint(int64_t step) const;

  /// Appends one line to log.jsonl; throws clip::Error if it cannot be written.
  void log(const nlohmann::json& line) const;

 private:
  std::string path_;
  bool goes_on_, writes_;
  FileDescriptor lock_;
};

/// The lines of a run's log, each with a step; one that a kill cut short is passed over.
std::vector<nlohmann::json> read_log(const std::string& run);

/// Hides the folder before removing it: a kill midway leaves no half of one under its name.
void remove_folder(const std::string& path);

/// Whether a folder holds a run, begun or not: its config.json.
bool is_run(const std::string& path);

/// logs/PREFIX-1, or the first number that is free.
std::string unused_run_name(const std::string& logs, const std::string& prefix);

/// The run that was written to last; throws clip::Error if there is none.
std::string latest_run(const std::string& logs);

}  // namespace clip
