// The work of one rank of many, without the others.
#pragma once

#include "engine/backend.h"
#include "engine/communicator.h"

namespace clip {

/// Rank 0; every other rank has the same data.
class OneOfManyRanks final : public Communicator {
 public:
  explicit OneOfManyRanks(int64_t ranks) : ranks_(ranks) {}

  int64_t rank() const override { return 0; }
  int64_t size() const override { return ranks_; }
  void all_gather(Tensor& all, const Tensor& mine) override {
    for (int64_t rank = 0; rank < ranks_; ++rank) {
      Tensor part = all.slice(rank * mine.size(0), (rank + 1) * mine.size(0));
      part.backend().copy(part, mine);
    }
  }
  void all_reduce_sum(Tensor& x) override {
    const Tensor mine = x.clone();
    for (int64_t rank = 1; rank < ranks_; ++rank) x.backend().add(x, mine);
  }
  void broadcast(Tensor&, int64_t) override {}
  void barrier() override {}
  void wait() override {}

 private:
  int64_t ranks_;
};

}  // namespace clip
