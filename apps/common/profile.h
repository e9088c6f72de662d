// Where the time of training steps goes, by op.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "autograd/tape.h"

namespace clip {

/// What a step spends on one op in one direction, or on work that is no op: the mean over the steps.
struct ProfileRow {
  std::string name;  ///< "linear", "linear backward", "loader", ...
  std::string kind;  ///< gemm, attention, loss or elementwise; of what is no op, its name
  double seconds = 0, calls = 0;
  double flop = 0, bytes = 0;  ///< as OpCost has them; 0: none
};

/// While it lives it waits for the device after each op of this thread, and gives the time since the
/// wait before to the op. The waits, less what they cost with nothing to wait for, slow a GPU.
class Profile {
 public:
  explicit Profile(Backend& backend);

  /// A step ends here. The first warms up: it is forgotten once there is another.
  void end_step();
  /// Of the steps that ended, by name.
  std::vector<ProfileRow> rows() const;

 private:
  using Clock = std::chrono::steady_clock;
  using Rows = std::map<std::string, ProfileRow>;
  void add(const OpRun& run);

  Backend& backend_;
  double wait_seconds_;  // of a wait with nothing to wait for
  Rows rows_, step_;     // sums over the steps that ended; of the step under way
  int64_t steps_ = 0;
  Clock::time_point last_;
  OpObserver observer_;
};

/// Prints them as a table, longest first, with their shares of the total.
void print_profile(std::vector<ProfileRow> rows);

}  // namespace clip
