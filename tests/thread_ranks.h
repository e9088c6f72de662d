// The ranks of a run as threads of one process, so that a test can compare them.
#pragma once

#include <omp.h>

#include <barrier>
#include <exception>
#include <thread>
#include <vector>

#include "engine/communicator.h"

namespace clip {

/// What the ranks share. Host memory only.
class ThreadRanks {
 public:
  explicit ThreadRanks(int64_t ranks) : meeting(ranks), published(static_cast<size_t>(ranks)) {}

  std::barrier<> meeting;
  std::vector<const Tensor*> published;
};

/// Adds in the order of the ranks, like a rank that sees all of them.
class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(ThreadRanks& ranks, int64_t rank) : ranks_(ranks), rank_(rank) {}

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return static_cast<int64_t>(ranks_.published.size()); }
  void all_gather(Tensor& all, const Tensor& mine) override;
  void all_reduce_sum(Tensor& x) override;
  void broadcast(Tensor& x, int64_t root) override;
  void barrier() override { ranks_.meeting.arrive_and_wait(); }
  void wait() override {}

 private:
  void publish(const Tensor& x);

  ThreadRanks& ranks_;
  int64_t rank_;
};

/// Runs body(communicator) on `count` threads; returns what they return, by rank. The first
/// exception of a rank is thrown here.
template <class Body>
auto on_ranks(int64_t count, const Body& body) {
  using Result = decltype(body(std::declval<Communicator&>()));
  ThreadRanks ranks(count);
  std::vector<Result> results(static_cast<size_t>(count));
  std::vector<std::exception_ptr> errors(results.size());
  std::vector<std::jthread> threads;
  for (int64_t rank = 0; rank < count; ++rank)
    threads.emplace_back([&, rank] {
      omp_set_num_threads(1);  // of this rank: waiting teams would take each other's processors
      ThreadCommunicator communicator(ranks, rank);
      try {
        results[static_cast<size_t>(rank)] = body(communicator);
      } catch (...) {
        errors[static_cast<size_t>(rank)] = std::current_exception();
        ranks.meeting.arrive_and_drop();  // the others go on without this one
      }
    });
  threads.clear();
  for (const std::exception_ptr& error : errors)
    if (error != nullptr) std::rethrow_exception(error);
  return results;
}

}  // namespace clip
