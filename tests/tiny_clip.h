// A small ViT CLIP with every parameter random (gains off 1, biases off 0), and batches for it.
// tests/reference/make_clip_reference.py draws the same numbers.
#pragma once

#include "models/training.h"
#include "tests/doubles.h"

namespace clip {

inline constexpr int64_t kTinyPairs = 5;

ClipConfig tiny_config(Gelu gelu = Gelu::kQuick);

/// A ModifiedResNet of 64 pixels, 2 + 1 + 1 + 1 blocks and 4 channels, with the same text tower.
ClipConfig tiny_resnet_config();

/// Draws every parameter and running statistic from its name.
void randomize(ParameterList& parameters);

Tensor tiny_images(int64_t step, Backend& backend, int64_t size = 24);  ///< U8 [5, size, size, 3]
/// 5 captions of 2 ... 12 tokens; drawn after the pictures of that size
std::vector<std::vector<int32_t>> tiny_captions(int64_t step, int64_t size = 24);

/// The contrastive loss of a batch, recorded if a tape is active.
Variable tiny_loss(const Clip& clip, int64_t step);

/// Randomizes the model and trains it for 20 steps: warm-up, cosine, decay of matrices alone,
/// clipping to norm 1, clamp of logit_scale. Returns what each step has to tell.
std::vector<StepMetrics> tiny_training(ClipModel& model);

}  // namespace clip
