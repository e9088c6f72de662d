// The sum of parameter gradients over ranks, on its way while backward goes on.
#pragma once

#include <vector>

#include "autograd/parameter_list.h"
#include "engine/communicator.h"

namespace clip {

/// Cuts the flat gradients into ranges of fixed size and starts a range's all-reduce as soon as
/// backward has finished every parameter in it and the ranges before it, so that all ranks call in
/// one order. Sums, never averages. One object serves one step.
class GradientReducer {
 public:
  static constexpr int64_t kRange = 8 << 20;  ///< elements: 32 MiB of F32

  /// range    elements of a range, fixed so that the order of sums is; a parameter may span several
  GradientReducer(ParameterList& parameters, Communicator& comm, int64_t range = kRange);

  /// Nothing will change this parameter's gradient any more: what Tape::backward reports of the
  /// last micro-batch. One that did not come counts as zero. Without effect for other leaves.
  void ready(const Variable& parameter);

  /// Starts the rest, where a parameter that backward did not reach counts as zero, and waits.
  void finish();

 private:
  void start_ranges(int64_t end);

  ParameterList& parameters_;
  Communicator& comm_;
  int64_t range_;
  std::vector<bool> ready_;  ///< by parameter, last to first; of locked ones from the start
  size_t first_pending_ = 0;
  int64_t started_ = 0;  ///< elements whose sum is on its way
};

}  // namespace clip
