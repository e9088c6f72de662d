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
};

/// The rows of a batch in `parts` micro-batches of equal size.
std::vector<Batch> to_device(const HostBatch& batch, int64_t image_size, Backend& backend,
                             int64_t parts = 1);

struct Contrast {
  Variable loss;            ///< [] this rank's share of the mean loss, in nats
  Variable image_features;  ///< [N, E], unit rows
  Variable text_features;   ///< [N, E], unit rows
};

/// Figure 3 of the paper, in training: both towers, unit vectors, the symmetric cross-entropy over all ranks'
/// rows.
Contrast contrast(const Clip& clip, const Batch& batch, Communicator& comm);

/// What a step has to tell. Losses are in nats.
struct StepMetrics {
  double loss = 0;
  double gradient_norm = 0;
  bool skipped = false;   ///< the gradient was not finite; nothing was changed
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

/// The least loss that a batch allows: the mean over its rows of ln(m), m counting the copies of a
/// row's caption.
double loss_floor(const std::vector<std::vector<int32_t>>& captions);

/// Share of the batch's pictures that are nearest to their own caption, or to a copy of it.
double in_batch_top1(const Tensor& image_features, const Tensor& text_features,
                     const std::vector<std::vector<int32_t>>& captions);

}  // namespace clip
