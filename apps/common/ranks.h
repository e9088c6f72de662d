// A program run by several ranks: joined when it starts, of one mind, ended together.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "engine/communicator.h"

namespace clip {

class Ranks {
 public:
  Ranks(Communicator& comm, std::string speaker) : comm_(comm), speaker_(std::move(speaker)) {}

  Communicator& comm() const { return comm_; }
  bool first() const { return comm_.rank() == 0; }

  /// Before it a rank prepares its part without collectives, and a failure, however many ranks run
  /// into it, is told by the lowest of them alone. Compares `facts`, an object of what must be
  /// equal on all ranks.
  /// throws clip::Error that names the first fact in which this rank differs from rank 0
  void meet(const nlohmann::json& facts);

  /// A sentence on standard error, headed by this rank's number.
  void warn(const std::string& sentence) const;

  /// Whether a signal asked any of the ranks to stop; collective.
  bool stop_requested() const;

  /// The sum of a number over all ranks; collective.
  int64_t sum(int64_t number) const;

 private:
  friend int run_ranks(const std::string&, const std::function<void(Ranks&)>&);

  enum class Outcome : int32_t { kDone, kHelp, kFailed };
  /// Tells the others how it went. Returns if all have done their part, or if this is the rank that
  /// tells why not; the others wait here for their end.
  void tell(Outcome outcome);

  Communicator& comm_;
  std::string speaker_;
  bool met_ = false;
};

/// run_program for a program that mpirun or srun may have started. Rank 0 alone prints on standard
/// output. A rank that fails says so with its number and ends the processes of all. Ranks of one
/// machine share its cores, unless OMP_NUM_THREADS says how many threads each has.
int run_ranks(const std::string& name, const std::function<void(Ranks&)>& body);

/// "3, 2 threads each", and how many cores a rank may use if the launcher keeps it from the others.
std::string describe_ranks(const Communicator& comm);

}  // namespace clip
