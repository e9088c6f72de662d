// Collectives between the ranks of a run.
#pragma once

#include <memory>

#include "engine/tensor.h"

namespace clip {

/// Calls are collective, in one order on all ranks, and may return before the data have arrived:
/// results are valid after wait(). One rank copies and never throws.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  /// all [size * n, ...] = the ranks' mine [n, ...] in rank order
  virtual void all_gather(Tensor& all, const Tensor& mine) = 0;
  virtual void all_reduce_sum(Tensor& x) = 0;
  virtual void broadcast(Tensor& x, int64_t root) = 0;
  virtual void barrier() = 0;
  virtual void wait() = 0;
};

/// The communicator of a run of one process.
std::unique_ptr<Communicator> make_single_communicator();

}  // namespace clip
