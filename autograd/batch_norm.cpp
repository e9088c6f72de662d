// BatchNorm with what follows it, and LayerScale, which is its affine part alone. Ranks exchange the
// moments of their rows forward and two sums a channel backward, so that W ranks give what one
// process gives on all rows.
#include "autograd/ops.h"

namespace clip {
namespace {

constexpr double kMomentum = 0.1;  // PyTorch's default, which all of CLIP has

/// [W, 2, C] of every rank's numbers [2, C]. In backward, wait() is also for the gradients' sums that
/// GradientReducer has under way: a ResNet hides them only as far as its next BatchNorm.
Tensor of_all_ranks(const Tensor& mine, Communicator& comm) {
  const Tensor part = mine.reshape({1, 2, mine.width()});
  if (comm.size() == 1) return part;
  const Tensor all = gathered(part, comm);
  comm.wait();
  return all;
}

/// [1, 2, C]: running statistics as the moments of one row.
Tensor as_moments(const RunningStatistics& running, int64_t width) {
  Backend& backend = running.mean.backend();
  Tensor moments = Tensor::empty(backend, {2, width}, running.mean.dtype());
  Tensor mean = moments.slice(0, 1).reshape({width}),
         variance = moments.slice(1, 2).reshape({width});
  backend.copy(mean, running.mean);
  backend.copy(variance, running.variance);
  return moments.reshape({1, 2, width});
}

/// Mean and 1 / deviation [2, C] to normalise x with.
Tensor statistics_of(const Tensor& x, const RunningStatistics& running, const BatchNormMode& mode,
                     double eps) {
  Backend& backend = x.backend();
  Tensor statistics = Tensor::empty(backend, {2, x.width()}, sum_dtype(x.dtype()));
  RunningStatistics moved;
  if (mode.comm == nullptr) {
    backend.batch_norm_statistics(statistics, moved, as_moments(running, x.width()), 1, eps, 0);
    return statistics;
  }
  if (mode.running == BatchNormMode::Running::kMoved) moved = running;
  Tensor moments = Tensor::like(statistics);
  backend.column_moments(moments, x);
  backend.batch_norm_statistics(statistics, moved, of_all_ranks(moments, *mode.comm), x.rows(), eps,
                                kMomentum);
  return statistics;
}

/// The sums [2, C] over all ranks, added in rank order.
Tensor sum_over_ranks(const Tensor& sums, Communicator& comm) {
  if (comm.size() == 1) return sums;
  Tensor total = Tensor::like(sums);
  total.backend().column_sums(total, of_all_ranks(sums, comm).reshape({comm.size(), sums.numel()}),
                              Accumulate::kNo);
  return total;
}

/// Row `row` of sums [2, C].
Tensor row_of(const Tensor& sums, int64_t row) {
  return sums.slice(row, row + 1).reshape({sums.width()});
}

}  // namespace

Variable batch_norm_relu(const Variable& x, const Variable& residual, const Variable& weight,
                         const Variable& bias, const RunningStatistics& running,
                         const BatchNormMode& mode, Relu relu, double eps) {
  const Shape channels = {x.width()};
  CLIP_CHECK(weight.shape() == channels && bias.shape() == channels,
             "[batch_norm_relu] weight and bias must be ", channels, ", got ", weight.shape(),
             " and ", bias.shape());
  CLIP_CHECK(has_shape(running.mean, channels) && has_shape(running.variance, channels),
             "[batch_norm_relu] the running statistics must be ", channels);
  CLIP_CHECK(!residual.defined() || residual.shape() == x.shape(),
             "[batch_norm_relu] residual must be ", x.shape(), ", got ", residual.shape());
  const int64_t all_rows = mode.comm == nullptr ? 0 : x.value().rows() * mode.comm->size();
  CLIP_CHECK(mode.comm == nullptr || all_rows > 1,
             "[batch_norm_relu] one row has no variance to normalise by: train on more pictures");
  Backend& backend = x.backend();
  const Tensor statistics = statistics_of(x.value(), running, mode, eps);
  Tensor y = Tensor::like(x.value());
  backend.batch_norm_relu_forward(y, x.value(), residual.defined() ? residual.value() : Tensor(),
                                  statistics, weight.value(), bias.value(), relu);
  const auto backward = [=, &backend, comm = mode.comm,
                         residual = residual.defined() ? residual.gradient_only()
                                                       : residual](const Tensor& dy) {
    const Tensor mask = relu == Relu::kYes ? y : Tensor();
    Tensor sums = Tensor::like(statistics), all_sums;
    backend.batch_norm_relu_sums(sums, dy, x.value(), mask, statistics);
    if (comm != nullptr) all_sums = sum_over_ranks(sums, *comm);
    weight.accept_gradient(row_of(sums, 0));
    bias.accept_gradient(row_of(sums, 1));
    // The residual may be x itself, so its gradient is a tensor of its own that is handed over.
    Tensor dresidual = residual.requires_grad() ? Tensor::like(y) : Tensor();
    auto [dx, to_dx] = x.gradient_slot();
    backend.batch_norm_relu_backward(dx, dresidual, dy, x.value(), mask, statistics, weight.value(),
                                     all_sums, all_rows, to_dx);
    residual.accept_gradient(dresidual);
  };
  return record("batch_norm_relu", y, {x, residual, weight, bias}, backward);
}

Variable scale_columns(const Variable& x, const Variable& scale) {
  CLIP_CHECK(scale.shape() == Shape{x.width()}, "[scale_columns] scale must be [", x.width(),
             "], got ", scale.shape());
  Backend& backend = x.backend();
  // Mean 0 and deviation 1, that of variance 0 and eps 1: what is left of a BatchNorm is its weight.
  Tensor statistics = Tensor::empty(backend, {2, x.width()}, sum_dtype(x.dtype()));
  RunningStatistics none;
  backend.batch_norm_statistics(
      statistics, none, Tensor::zeros(backend, {1, 2, x.width()}, statistics.dtype()), 1, 1, 0);
  Tensor y = Tensor::like(x.value());
  backend.batch_norm_relu_forward(y, x.value(), {}, statistics, scale.value(), {}, Relu::kNo);
  return record("scale_columns", y, {x, scale}, [=, &backend](const Tensor& dy) {
    Tensor sums = Tensor::like(statistics), no_residual;
    if (scale.requires_grad()) {
      backend.batch_norm_relu_sums(sums, dy, x.value(), {}, statistics);
      scale.accept_gradient(row_of(sums, 0));
    }
    if (auto [dx, to_dx] = x.gradient_slot(); dx)
      backend.batch_norm_relu_backward(dx, no_residual, dy, x.value(), {}, statistics,
                                       scale.value(), {}, 0, to_dx);
  });
}

}  // namespace clip
