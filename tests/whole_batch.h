// Batches that any number of ranks and micro-batches can share.
#pragma once

#include <gtest/gtest.h>

#include <numeric>

#include "engine/random.h"
#include "models/patch_dropout.h"
#include "models/training.h"
#include "tests/tiny_clip.h"

namespace clip {

/// Rows of an endless batch of noise and captions of 2 ... 9 tokens, in micro-batches.
inline std::vector<Batch> rows_of_batch(int64_t step, const std::vector<int64_t>& rows,
                                        int64_t parts, int64_t size = 24,
                                        Backend& backend = cpu_backend()) {
  HostBatch batch;
  for (const int64_t row : rows) {
    Random random(static_cast<uint64_t>(step), static_cast<uint64_t>(row));
    for (int64_t i = 0; i < size * size * 3; ++i)
      batch.images.push_back(static_cast<uint8_t>(random.bits()));
    std::vector<int32_t> caption = {62};
    for (uint64_t length = random.below(8); caption.size() <= length;)
      caption.push_back(static_cast<int32_t>(random.below(60)));
    caption.push_back(63);
    batch.tokens.push_back(caption);
  }
  return to_device(batch, size, backend, parts);
}

inline std::vector<int64_t> range(int64_t begin, int64_t end) {
  std::vector<int64_t> rows(static_cast<size_t>(end - begin));
  std::iota(rows.begin(), rows.end(), begin);
  return rows;
}

/// Rows of this rank out of `pairs` of the global batch.
inline std::vector<int64_t> rows_of_rank(const Communicator& comm, int64_t pairs) {
  const int64_t rows = pairs / comm.size();
  return range(comm.rank() * rows, (comm.rank() + 1) * rows);
}

inline std::vector<Batch> batch_of_rank(const Communicator& comm, int64_t step, int64_t pairs,
                                        int64_t parts, Backend& backend = cpu_backend()) {
  return rows_of_batch(step, rows_of_rank(comm, pairs), parts, 24, backend);
}

/// What a gradient is of, and how it is computed.
struct Way {
  LossKind loss = LossKind::kSoftmax;
  double patch_dropout = 0;
  Activations activations = Activations::kKept;
  LockedTowers locked = {};
};

/// Gradients of the first step on `pairs` pairs, as this rank has them after the sum over ranks.
inline std::vector<double> gradients_on_rank(Communicator& comm, int64_t pairs,
                                             int64_t micro_batches, const Way& way) {
  const ClipConfig config =
      way.loss == LossKind::kSigmoid ? with_sigmoid_loss(tiny_config(), -2) : tiny_config();
  ClipModel model(config, cpu_backend(), DType::kF64, way.locked);
  model.clip.towers.activations = way.activations;
  randomize(model.parameters);
  model.parameters.allocate_training_state();
  auto batches = batch_of_rank(comm, 0, pairs, micro_batches);
  if (way.patch_dropout > 0)
    drop_patches(batches, config.vision.patches(), way.patch_dropout, 7,
                 comm.rank() * pairs / comm.size());
  contrast_and_gradients(model, batches, comm);
  return to_doubles(model.parameters.gradients());
}

struct TwentySteps {
  std::vector<double> losses;
  Tensor parameters;  ///< F32, after the last step
};

/// Trains in F32 for twenty steps of `pairs` pairs, over a communicator of the backend's tensors.
inline TwentySteps twenty_steps_on_rank(Communicator& comm, int64_t pairs, int64_t micro_batches,
                                        Backend& backend = cpu_backend(),
                                        const ClipConfig& config = tiny_config()) {
  ClipModel model(config, backend);
  initialize(model.parameters, config, 3);
  AdamW optimizer(model.parameters, {.max_norm = 1.0});
  const LearningRate lr{.lr = 1e-3, .warmup_steps = 5, .total_steps = 20};
  std::vector<double> losses;
  for (int64_t step = 0; step < 20; ++step) {
    const auto batch = batch_of_rank(comm, step, pairs, micro_batches, backend);
    losses.push_back(train_step(model, optimizer, batch, lr.at(step), comm).loss());
  }
  return {losses, model.parameters.values()};
}

/// Expects losses that differ by where F32 sums are cut.
inline void expect_losses(const std::vector<double>& actual, const std::vector<double>& expected,
                          const std::string& split) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t step = 0; step < expected.size(); ++step)
    EXPECT_NEAR(actual[step], expected[step], 1e-6 * expected[step]) << split << ", step " << step;
}

}  // namespace clip
