#include "apps/common/ranks.h"

#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>

#include "apps/common/program.h"
#include "engine/backend.h"
#include "models/features.h"

namespace clip {
namespace {

/// One value of each rank, in their order.
template <class T>
std::vector<T> gathered(Communicator& comm, const T& mine) {
  const auto size = static_cast<int64_t>(sizeof(T));
  std::vector<T> values(static_cast<size_t>(comm.size()));
  Tensor all = Tensor::empty(cpu_backend(), {size * comm.size()}, DType::kU8);
  comm.all_gather(all, Tensor::from_bytes(cpu_backend(), {size}, DType::kU8, &mine));
  comm.wait();
  all.copy_to_host(values.data());
  return values;
}

/// The machine a rank runs on and the cores it may use there.
struct Seat {
  std::array<char, 40> machine{};
  cpu_set_t cores{};
};

Seat own_seat() {
  Seat seat;
  // Host names are not always different, and containers of one machine have different ones.
  std::ifstream("/proc/sys/kernel/random/boot_id").read(seat.machine.data(), 36);
  CPU_ZERO(&seat.cores);
  ::sched_getaffinity(0, sizeof seat.cores, &seat.cores);
  return seat;
}

/// A core that k ranks may use counts as 1 / k for each of them.
void share_cores(Communicator& comm) {
  const Seat mine = own_seat();
  const std::vector<Seat> seats = gathered(comm, mine);
  if (std::getenv("OMP_NUM_THREADS") != nullptr) return;
  double share = 0;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &mine.cores)) continue;
    share +=
        1.0 / static_cast<double>(std::count_if(seats.begin(), seats.end(), [&](const Seat& s) {
          return s.machine == mine.machine && CPU_ISSET(core, &s.cores);
        }));
  }
  omp_set_num_threads(std::max(1, static_cast<int>(share + 1e-9)));
}

}  // namespace

void Ranks::tell(Outcome outcome) {
  const std::vector<Outcome> all = gathered(comm_, outcome);
  const auto failed = std::find(all.begin(), all.end(), Outcome::kFailed);
  if (failed == all.end()) {
    const bool help = std::find(all.begin(), all.end(), Outcome::kHelp) != all.end();
    if (help && outcome == Outcome::kDone) throw HelpShown();
    return;
  }
  if (failed - all.begin() == comm_.rank()) return;
  comm_.barrier();  // the failed rank never comes: it ends this process
  comm_.wait();
}

void Ranks::meet(const nlohmann::json& facts) {
  tell(Outcome::kDone);
  const auto text = [](const nlohmann::json& json) {  // names of files need not be UTF-8
    return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  };
  const auto value = [&](const nlohmann::json& all, const std::string& key) {
    return all.contains(key) ? text(all[key]) : "absent";
  };
  const auto mine = facts.flatten();
  const auto first = nlohmann::json::parse(text_of_first_rank(text(mine), comm_));
  for (const nlohmann::json& all : {first, mine})
    for (const auto& item : all.items())
      CLIP_CHECK(value(mine, item.key()) == value(first, item.key()), item.key().substr(1), " is ",
                 value(mine, item.key()), " here and ", value(first, item.key()),
                 " on rank 0, but must be equal on all ranks");
  tell(Outcome::kDone);
  met_ = true;
}

void Ranks::warn(const std::string& sentence) const {
  std::cerr << concat(speaker_, ": ", one_line(sentence), '\n');
}

bool Ranks::stop_requested() const { return sum(clip::stop_requested() ? 1 : 0) > 0; }

int64_t Ranks::sum(int64_t number) const {
  if (comm_.size() == 1) return number;
  int64_t total = 0;
  for (const int64_t part : gathered(comm_, number)) total += part;
  return total;
}

int run_ranks(const std::string& name, const std::function<void(Ranks&)>& body) {
  std::unique_ptr<Communicator> comm;
  const int joined = run_program(name, [&] {
    comm = make_communicator();
    if (comm->size() > 1) share_cores(*comm);
    CLIP_CHECK(comm->rank() == 0 || std::freopen("/dev/null", "w", stdout) != nullptr,
               "cannot open /dev/null");
  });
  if (joined != 0) {
    if (comm != nullptr) comm->abort(joined);  // its end would wait for the others
    return joined;
  }
  Ranks ranks(*comm, comm->size() == 1 ? name : concat(name, ": rank ", comm->rank()));
  const int status = run_program(
      name,
      [&] {
        using Outcome = Ranks::Outcome;
        try {
          body(ranks);
        } catch (const HelpShown&) {
          if (!ranks.met_) ranks.tell(Outcome::kHelp);
          throw;
        } catch (...) {
          if (!ranks.met_) ranks.tell(Outcome::kFailed);
          throw;
        }
      },
      ranks.speaker_);
  if (status != 0) comm->abort(status);
  return status;
}

std::string describe_ranks(const Communicator& comm) {
  const int threads = omp_get_max_threads(), cores = omp_get_num_procs();
  const long online = ::sysconf(_SC_NPROCESSORS_ONLN);
  const std::string bound =
      cores < online ? concat(", each kept to ", cores, " of its machine's ", online, " cores")
                     : "";
  return concat(comm.size(), ", ", threads, threads == 1 ? " thread each" : " threads each", bound);
}

}  // namespace clip
