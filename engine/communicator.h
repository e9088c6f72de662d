// Collectives between the ranks of a run.
#pragma once

#include <memory>

#include "engine/tensor.h"

namespace clip {

/// Calls are collective, in one order on all ranks, and may return before the data have arrived:
/// until wait(), results are not there and arguments must not change. One rank copies and never
/// throws.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  virtual int64_t local_rank() const { return rank(); }  ///< among those on this machine
  /// all [size * n, ...] = the ranks' mine [n, ...] in rank order
  virtual void all_gather(Tensor& all, const Tensor& mine) = 0;
  /// The same bits on all ranks, and every time.
  virtual void all_reduce_sum(Tensor& x) = 0;
  virtual void broadcast(Tensor& x, int64_t root) = 0;
  virtual void barrier() = 0;
  virtual void wait() = 0;
  /// Ends the processes of all ranks, whatever they wait for; returns where there is but one.
  virtual void abort(int /*exit_status*/) {}

 protected:
  /// For all_gather of several ranks: throws clip::Error unless `all` holds their parts.
  void check_gather(const Tensor& all, const Tensor& mine) const;
};

/// [size * n, ...] of the ranks' mine [n, ...], there after comm.wait()
Tensor gathered(const Tensor& mine, Communicator& comm);

/// The communicator of a run of one process.
std::unique_ptr<Communicator> make_single_communicator();

constexpr int64_t kLargestMessage = 1 << 30;

/// Joins the ranks that mpirun or srun started, over host memory: tensors must be on the CPU, and
/// one thread of a rank makes all calls. All ranks call it, once; where nobody started more than
/// this process it is the single communicator. The ranks part when it is destroyed.
///
/// largest_message  bytes that one MPI call may carry; longer messages are cut
/// throws           clip::Error if the ranks cannot be joined, or the build has no MPI
std::unique_ptr<Communicator> make_communicator(int64_t largest_message = kLargestMessage);

/// Joins the same ranks over the memory of their GPUs, one a rank: NCCL, on a stream of its own.
/// Tensors must be on that GPU; wait() makes its later kernels wait, not the host. `launch`
/// outlives it. With one rank it is the single communicator.
///
/// throws  clip::Error if the ranks cannot be joined, or the build has no NCCL
std::unique_ptr<Communicator> make_gpu_communicator(Communicator& launch, Backend& gpu);

}  // namespace clip
