// One step of contrastive pretraining.
#pragma once

#include "autograd/optimizer.h"
#include "models/clip.h"
#include "models/data_loader.h"

namespace clip {

/// Pictures and their captions on a device. Row i of both is a pair.
struct Batch {
  Tensor images;  ///< U8 [N, S, S, 3]
  PackedTokens tokens;
  Tensor kept_tokens = {};  ///< I32 [N (K + 1)], what patch dropout left; undefined: all
  /// [N, E], unit rows of a locked tower that are known already; undefined: still to compute.
  Tensor image_features = {}, text_features = {};
};

/// The rows of a batch in `parts` micro-batches of equal size.
std::vector<Batch> to_device(const HostBatch& batch, int64_t image_size, Backend& backend,
                             int64_t parts = 1);

/// Brings batches to a device, the pictures beside the step before: two buffers in turn. What is
/// returned is good until the call after the next.
class BatchUploader {
 public:
  BatchUploader(Backend& backend, int64_t image_size) : backend_(backend), size_(image_size) {}
  std::vector<Batch> operator()(const HostBatch& batch, int64_t parts);

 private:
  Backend& backend_;
  int64_t size_;
  Tensor images_, other_images_;  ///< U8 [N, S, S, 3]
};

struct Contrast {
  Variable loss;            ///< [] this rank's share of the mean loss, in nats
  Variable image_features;  ///< [N, E], unit rows
  Variable text_features;   ///< [N, E], unit rows
};

/// Figure 3 of the paper, in training: both towers, unit vectors, the loss over all ranks' rows: the
/// symmetric cross-entropy, or the sigmoid loss of a model that has a logit_bias.
Contrast contrast(const Clip& clip, const Batch& batch, Communicator& comm);

/// What a step has to tell. Asking for a number waits for the device; the step itself does not.
struct StepMetrics {
  double loss() const { return mean_loss.item(); }  ///< nats
  double gradient_norm() const;                     ///< over all parameters, before clipping
  bool skipped() const;  ///< the norm was not finite: nothing was changed

  Tensor mean_loss;       ///< []
  Tensor sum_of_squares;  ///< F64 [], of the gradients
  Tensor image_features;  ///< [N, E], unit rows, before the update
  Tensor text_features;
};

/// The loss over all ranks' rows, and its gradient, summed over the ranks, in model.parameters.
/// Several micro-batches give what their union would, in the memory of one: both towers run
/// without a tape, the loss runs once over the global batch, and each micro-batch runs again from
/// the gradient of its features. One exception: a BatchNorm normalises each micro-batch, over all
/// ranks, by that micro-batch's statistics, since those of the union need all activations at once.
/// Source: Gao et al. 2021, arXiv:2101.06983 (GradCache).
Contrast contrast_and_gradients(ClipModel& model, const std::vector<Batch>& micro_batches,
                                Communicator& comm);

/// Forward, backward, sum over ranks, AdamW, and the clamp of logit_scale to [0, ln 100].
StepMetrics train_step(ClipModel& model, AdamW& optimizer, const std::vector<Batch>& micro_batches,
                       double lr, Communicator& comm);

using Captions = std::vector<std::vector<int32_t>>;

/// The captions of the global batch, in its order.
/// mine     those of this rank's rows; as many on every rank
/// ranks    over host memory, here and below
Captions all_captions(const Captions& mine, Communicator& ranks);

/// The least loss of a row when it and copies - 1 others cannot be told apart, so that all their
/// pairs have one logit: ln m of the softmax loss, ln m + (m - 1) ln(m / (m - 1)) of the sigmoid
/// loss. With m = G, what a model has that knows nothing.
double loss_of_copies(LossKind loss, int64_t copies);

/// The least loss that a batch allows: the mean over its rows of loss_of_copies(m), m counting the
/// copies of a row's caption.
double loss_floor(const Captions& captions, LossKind loss = LossKind::kSoftmax);

/// Share of the global batch's pictures that are nearest to their own caption, or to a copy of it.
/// image_features, text_features    [N, E] of this rank
/// captions                         of all ranks
double in_batch_top1(const Tensor& image_features, const Tensor& text_features,
                     const Captions& captions, Communicator& ranks);

}  // namespace clip
