// A run's folder: config.json, log.jsonl, checkpoints/step_<k>/.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace clip {

class RunFolder {
 public:
  /// Makes a new run's folder, or opens the one to go on in, whose log is cut after `resume_step`:
  /// what came later is made again. Where `writes` is false it writes nothing, now and later: of
  /// several ranks only one does.
  /// throws clip::Error that names the path if it cannot be written, or a new run's exists
  RunFolder(const std::string& path, const nlohmann::json& config, bool resume, int64_t resume_step,
            bool writes = true);

  const std::string& path() const { return path_; }
  std::string checkpoint(int64_t step) const;

  /// Appends one line to log.jsonl; throws clip::Error if it cannot be written.
  void log(const nlohmann::json& line) const;

 private:
  std::string path_;
  bool writes_;
};

/// Hides the folder before removing it: a kill midway leaves no half of one under its name.
void remove_folder(const std::string& path);

/// Whether a folder holds a run, begun or not: its config.json.
bool is_run(const std::string& path);

/// logs/PREFIX-1, or the first number that is free.
std::string unused_run_name(const std::string& logs, const std::string& prefix);

/// The run that was written to last; throws clip::Error if there is none.
std::string latest_run(const std::string& logs);

}  // namespace clip
