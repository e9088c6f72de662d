// Programs of this build, run as a user would: in a folder of their own, with signals sent to them.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "tests/scratch_folder.h"

namespace clip {

struct AppResult {
  int status = 0;   ///< exit status; 128 + the signal's number if a signal ended it
  std::string out;  ///< standard output
  std::string err;  ///< standard error
};

/// apps/<name> of the build this test belongs to, started in `folder`, which also keeps what it
/// prints, standard output in the file (or terminal) `out`. `launcher` are words before it, such as
/// mpirun(2): signals go to what they name then. Its threads sleep while they wait, so
/// that a busy machine does not slow it twentyfold.
class AppProcess {
 public:
  AppProcess(const std::string& name, const std::vector<std::string>& arguments,
             const ScratchFolder& folder, const std::string& out = ".stdout",
             const std::vector<std::string>& launcher = {});
  AppProcess(const AppProcess&) = delete;
  AppProcess& operator=(const AppProcess&) = delete;
  ~AppProcess();  ///< kills it if nobody waited for it

  void send(int signal) const;
  bool has_ended();  ///< asks without waiting
  AppResult wait();
  pid_t id() const { return id_; }

 private:
  std::string out_, err_;
  pid_t id_ = -1;
  int status_ = -1;
  bool ended_ = false;
};

AppResult run_app(const std::string& name, const std::vector<std::string>& arguments,
                  const ScratchFolder& folder);

std::vector<std::string> lines_of(const std::string& text);

/// Whether a name under `folder`, at any depth, has ".tmp" in it.
bool holds_temporaries(const std::string& folder);

/// Expects one sentence on standard error, headed by the program's name, that holds all `parts`.
void expect_refused(const AppResult& result, const std::string& name, int status,
                    const std::vector<std::string>& parts);

}  // namespace clip
