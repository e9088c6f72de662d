// AdamW with decoupled weight decay, a learning-rate schedule, and clipping by the global norm.
#pragma once

#include "autograd/parameter_list.h"

namespace clip {

/// Linear warm-up to `lr`, then half a cosine to zero at `total_steps`, or constant.
struct LearningRate {
  enum class Schedule { kCosine, kConstant };
  double lr = 5e-4;
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;
  Schedule schedule = Schedule::kCosine;
  /// Learning rate of step `step`, counted from 0. Source: open_clip_train/scheduler.py.
  double at(int64_t step) const;
};

struct OptimizerOptions {
  double beta1 = 0.9;
  double beta2 = 0.98;
  double eps = 1e-6;
  double weight_decay =
      0.2;  ///< of matrices only: biases, gains, embeddings of one axis and logit_scale are left
  double max_norm = 0;  ///< 0: no clipping
};

/// Waits for no device: everything a step decides (clipping, whether it is left out) is decided
/// where the gradients are.
class AdamW {
 public:
  /// Gives the list its training state if it has none.
  AdamW(ParameterList& parameters, const OptimizerOptions& options);

  /// Updates every parameter from its gradient, unless the gradients' norm is not finite, then
  /// clears the gradients.
  /// returns F64 [], the sum of the gradients' squares before clipping
  Tensor step(double lr);

  int64_t steps_done() const;  ///< updates so far, for the bias corrections; waits for the device
  int64_t steps_skipped() const;  ///< steps left out by this object; waits for the device
  void set_steps_done(int64_t steps);

 private:
  ParameterList& parameters_;
  OptimizerOptions options_;
  Tensor decays_;   ///< U8 per block of kParameterBlock
  Tensor scalars_;  ///< F64 [kAdamWScalars]
};

}  // namespace clip
