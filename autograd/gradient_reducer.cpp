#include "autograd/gradient_reducer.h"

#include <algorithm>

namespace clip {

GradientReducer::GradientReducer(ParameterList& parameters, Communicator& comm, int64_t range)
    : parameters_(parameters),
      comm_(comm),
      range_(range),
      ready_(parameters.parameters().size(), false) {
  const auto& all = parameters_.parameters();
  for (size_t i = 0; i < all.size(); ++i) ready_[i] = all[all.size() - 1 - i].locked;
}

void GradientReducer::ready(const Variable& parameter) {
  const auto& all = parameters_.parameters();  // the flat buffer holds them last to first
  for (size_t i = first_pending_; i < all.size(); ++i) {
    if (!all[all.size() - 1 - i].variable.is_same(parameter)) continue;
    parameters_.settle_gradient(all[all.size() - 1 - i]);
    ready_[i] = true;
    break;
  }
  while (first_pending_ < ready_.size() && ready_[first_pending_]) ++first_pending_;
  if (first_pending_ < ready_.size())
    start_ranges(all[all.size() - 1 - first_pending_].offset / range_ * range_);
}

void GradientReducer::finish() {
  parameters_.settle_gradients();
  start_ranges(parameters_.gradients().numel());
  comm_.wait();
}

void GradientReducer::start_ranges(int64_t end) {
  while (started_ < end) {
    const int64_t stop = std::min(started_ + range_, parameters_.gradients().numel());
    Tensor range = parameters_.gradients().slice(started_, stop);
    comm_.all_reduce_sum(range);
    started_ = stop;
  }
}

}  // namespace clip
