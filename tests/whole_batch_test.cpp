// Any number of ranks and micro-batches gives the gradients of one process on the whole batch.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/random.h"
#include "models/patch_dropout.h"
#include "models/training.h"
#include "tests/thread_ranks.h"
#include "tests/tiny_clip.h"

namespace clip {
namespace {

struct Split {
  int64_t ranks, micro_batches;
};

/// Rows [begin, end) of an endless batch of noise and captions of 2 ... 9 tokens, in micro-batches.
std::vector<Batch> rows_of_batch(int64_t step, int64_t begin, int64_t end, int64_t parts) {
  HostBatch batch;
  for (int64_t row = begin; row < end; ++row) {
    Random random(static_cast<uint64_t>(step), static_cast<uint64_t>(row));
    for (int64_t i = 0; i < 24 * 24 * 3; ++i)
      batch.images.push_back(static_cast<uint8_t>(random.bits()));
    std::vector<int32_t> caption = {62};
    for (uint64_t length = random.below(8); caption.size() <= length;)
      caption.push_back(static_cast<int32_t>(random.below(60)));
    caption.push_back(63);
    batch.tokens.push_back(caption);
  }
  return to_device(batch, 24, cpu_backend(), parts);
}

/// Rows of this rank out of `pairs` of the global batch.
std::vector<Batch> batch_of_rank(const Communicator& comm, int64_t step, int64_t pairs,
                                 int64_t parts) {
  const int64_t rows = pairs / comm.size();
  return rows_of_batch(step, comm.rank() * rows, (comm.rank() + 1) * rows, parts);
}

/// What a gradient is of, and how it is computed.
struct Way {
  LossKind loss = LossKind::kSoftmax;
  double patch_dropout = 0;
  Activations activations = Activations::kKept;
  LockedTowers locked = {};
};

std::vector<double> gradients(const Split& split, int64_t pairs, const Way& way) {
  return on_ranks(split.ranks, [&](Communicator& comm) {
    const ClipConfig config =
        way.loss == LossKind::kSigmoid ? with_sigmoid_loss(tiny_config(), -2) : tiny_config();
    ClipModel model(config, cpu_backend(), DType::kF64, way.locked);
    model.clip.towers.activations = way.activations;
    randomize(model.parameters);
    model.parameters.allocate_training_state();
    auto micro_batches = batch_of_rank(comm, 0, pairs, split.micro_batches);
    if (way.patch_dropout > 0)
      drop_patches(micro_batches, config.vision.patches(), way.patch_dropout, 7,
                   comm.rank() * pairs / comm.size());
    contrast_and_gradients(model, micro_batches, comm);
    return to_doubles(model.parameters.gradients());
  })[0];
}

void expect_relative(const std::vector<double>& actual, const std::vector<double>& expected,
                     double tolerance) {
  double largest = 0, difference = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    difference = std::max(difference, std::abs(actual[i] - expected[i]));
  }
  EXPECT_LE(difference, tolerance * largest);
}

class EverySplit : public testing::TestWithParam<Split> {};

TEST_P(EverySplit, GivesTheGradientsOfOneProcess) {
  const int64_t pairs = 2 * GetParam().ranks * GetParam().micro_batches;
  for (const LossKind loss : {LossKind::kSoftmax, LossKind::kSigmoid})
    for (const double patch_dropout : {0.0, 0.4}) {
      Way way{.loss = loss, .patch_dropout = patch_dropout};
      const auto expected = gradients({1, 1}, pairs, way);
      for (const Activations activations : {Activations::kKept, Activations::kRecomputed}) {
        way.activations = activations;
        // The sums over rows are cut in other places: some roundings of 1e-16 each.
        expect_relative(gradients(GetParam(), pairs, way), expected, 1e-12);
      }
    }
}

TEST(LockedTowers, LeaveTheGradientsOfTheOtherTowerAsTheyAreAtAnySplit) {
  // Parameters lie in the flat buffer last to first: the scale, the text tower, the image tower.
  const auto all = gradients({1, 1}, 12, {});
  for (const Split split : {Split{1, 1}, Split{1, 3}, Split{2, 1}, Split{3, 2}}) {
    const auto text = gradients(split, 12, {.locked = {.image = true}});
    ASSERT_LT(text.size(), all.size());
    expect_relative(text, {all.begin(), all.begin() + static_cast<std::ptrdiff_t>(text.size())},
                    1e-12);
    const auto scale = gradients(split, 12, {.locked = {.image = true, .text = true}});
    ASSERT_EQ(scale.size(), static_cast<size_t>(kParameterBlock));
    expect_relative(scale, {all.begin(), all.begin() + kParameterBlock}, 1e-12);
  }
}

std::vector<double> losses_of_twenty_steps(const Split& split) {
  return on_ranks(split.ranks, [&](Communicator& comm) {
    ClipModel model(tiny_config(), cpu_backend());
    initialize(model.parameters, model.clip.config, 3);
    AdamW optimizer(model.parameters, {.max_norm = 1.0});
    const LearningRate lr{.lr = 1e-3, .warmup_steps = 5, .total_steps = 20};
    std::vector<double> losses;
    for (int64_t step = 0; step < 20; ++step) {
      const auto batch = batch_of_rank(comm, step, 24, split.micro_batches);
      losses.push_back(train_step(model, optimizer, batch, lr.at(step), comm).loss());
    }
    return losses;
  })[0];
}

TEST(WholeBatch, TrainsWithTheLossesOfOneProcess) {
  const auto expected = losses_of_twenty_steps({1, 1});
  for (const Split split : {Split{3, 1}, Split{1, 4}, Split{2, 3}}) {
    const auto actual = losses_of_twenty_steps(split);
    for (size_t step = 0; step < expected.size(); ++step)
      EXPECT_NEAR(actual[step], expected[step], 1e-6 * expected[step])
          << split.ranks << " ranks, step " << step;
  }
}

std::vector<Split> grid() {
  std::vector<Split> splits;
  for (int64_t ranks = 1; ranks <= 4; ++ranks)
    for (int64_t micro_batches = 1; micro_batches <= 4; ++micro_batches)
      splits.push_back({ranks, micro_batches});
  return splits;
}

std::string split_name(const testing::TestParamInfo<Split>& info) {
  return concat(info.param.ranks, "Ranks", info.param.micro_batches, "MicroBatches");
}

INSTANTIATE_TEST_SUITE_P(Grid, EverySplit, testing::ValuesIn(grid()), split_name);

TEST(RecomputedActivations, GiveTheSameBits) {
  EXPECT_EQ(gradients({1, 1}, 6, {}),
            gradients({1, 1}, 6, {.activations = Activations::kRecomputed}));
}

TEST(ToDevice, RefusesMicroBatchesOfUnequalSize) { EXPECT_THROW(rows_of_batch(0, 0, 5, 2), Error); }

}  // namespace
}  // namespace clip
