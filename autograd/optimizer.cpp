#include "autograd/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace clip {

double LearningRate::at(int64_t step) const {
  if (step < warmup_steps)
    return lr * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  if (schedule == Schedule::kConstant || total_steps <= warmup_steps) return lr;
  const double progress =
      static_cast<double>(step - warmup_steps) / static_cast<double>(total_steps - warmup_steps);
  return 0.5 * (1.0 + std::cos(std::numbers::pi * std::min(progress, 1.0))) * lr;
}

AdamW::AdamW(ParameterList& parameters, const OptimizerOptions& options)
    : parameters_(parameters), options_(options) {
  if (!parameters.has_training_state()) parameters.allocate_training_state();
  Backend& backend = parameters.values().backend();
  std::vector<uint8_t> decays(static_cast<size_t>(parameters.gradients().numel() / kParameterBlock),
                              0);
  for (const Parameter& parameter : parameters.parameters()) {
    if (parameter.locked || parameter.variable.rank() < 2) continue;
    const int64_t first = parameter.offset / kParameterBlock;
    const int64_t end =
        (parameter.offset + parameter.variable.shape().numel() - 1) / kParameterBlock + 1;
    for (int64_t block = first; block < end; ++block) decays[static_cast<size_t>(block)] = 1;
  }
  decays_ = Tensor::from<uint8_t>(backend, {static_cast<int64_t>(decays.size())}, decays);
  scalars_ = Tensor::zeros(backend, {kAdamWScalars}, DType::kF64);
}

Tensor AdamW::step(double lr) {
  Backend& backend = parameters_.values().backend();
  parameters_.settle_gradients();
  Tensor sum_of_squares = Tensor::empty(backend, {}, DType::kF64);
  backend.sum_of_squares(sum_of_squares, parameters_.gradients());
  const AdamWOptions options{.lr = lr,
                             .beta1 = options_.beta1,
                             .beta2 = options_.beta2,
                             .eps = options_.eps,
                             .weight_decay = options_.weight_decay,
                             .max_norm = options_.max_norm};
  backend.adamw_scalars(scalars_, sum_of_squares, options);
  Tensor values = parameters_.trained(parameters_.values()),
         rounded_values = parameters_.trained(parameters_.rounded_values());
  backend.adamw(values, rounded_values, parameters_.first_moments(), parameters_.second_moments(),
                parameters_.gradients(), decays_, scalars_, options);
  parameters_.clear_gradients();
  return sum_of_squares;
}

int64_t AdamW::steps_done() const {
  return static_cast<int64_t>(scalars_.to_vector<double>()[kUpdates]);
}

int64_t AdamW::steps_skipped() const {
  return static_cast<int64_t>(scalars_.to_vector<double>()[kSkips]);
}

void AdamW::set_steps_done(int64_t steps) {
  std::vector<double> scalars = scalars_.to_vector<double>();
  scalars[kUpdates] = static_cast<double>(steps);
  scalars_.copy_from_host(scalars.data());
}

}  // namespace clip
