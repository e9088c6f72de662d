// Any number of ranks and micro-batches gives the gradients of one process on the whole batch.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "engine/random.h"
#include "models/training.h"
#include "tests/thread_ranks.h"
#include "tests/tiny_clip.h"

namespace clip {
namespace {

struct Split {
  int64_t ranks, micro_batches;
};

/// Rows of an endless batch of noise and captions of 2 ... 9 tokens, in micro-batches.
std::vector<Batch> rows_of_batch(int64_t step, const std::vector<int64_t>& rows, int64_t parts,
                                 int64_t size = 24) {
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
  return to_device(batch, size, cpu_backend(), parts);
}

std::vector<int64_t> range(int64_t begin, int64_t end) {
  std::vector<int64_t> rows;
  for (int64_t row = begin; row < end; ++row) rows.push_back(row);
  return rows;
}

/// Rows of this rank out of `pairs` of the global batch.
std::vector<int64_t> rows_of_rank(const Communicator& comm, int64_t pairs) {
  const int64_t rows = pairs / comm.size();
  return range(comm.rank() * rows, (comm.rank() + 1) * rows);
}

std::vector<double> gradients(const Split& split, int64_t pairs, Activations activations) {
  return on_ranks(split.ranks, [&](Communicator& comm) {
    ClipModel model(tiny_config(), cpu_backend(), DType::kF64);
    model.clip.towers.activations = activations;
    randomize(model.parameters);
    model.parameters.allocate_training_state();
    contrast_and_gradients(model, rows_of_batch(0, rows_of_rank(comm, pairs), split.micro_batches),
                           comm);
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
  const auto expected = gradients({1, 1}, pairs, Activations::kKept);
  for (const Activations activations : {Activations::kKept, Activations::kRecomputed})
    // The sums over rows are cut in other places: some roundings of 1e-16 each.
    expect_relative(gradients(GetParam(), pairs, activations), expected, 1e-12);
}

std::vector<double> losses_of_twenty_steps(const Split& split) {
  return on_ranks(split.ranks, [&](Communicator& comm) {
    ClipModel model(tiny_config(), cpu_backend());
    initialize(model.parameters, model.clip.config, 3);
    AdamW optimizer(model.parameters, {.max_norm = 1.0});
    const LearningRate lr{.lr = 1e-3, .warmup_steps = 5, .total_steps = 20};
    std::vector<double> losses;
    for (int64_t step = 0; step < 20; ++step) {
      const auto batch = rows_of_batch(step, rows_of_rank(comm, 24), split.micro_batches);
      losses.push_back(train_step(model, optimizer, batch, lr.at(step), comm).loss);
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
  EXPECT_EQ(gradients({1, 1}, 6, Activations::kKept),
            gradients({1, 1}, 6, Activations::kRecomputed));
}

/// Gradients and running statistics of a ResNet after one step of each rank's micro-batches.
struct ResNetStep {
  std::vector<double> gradients, running;
  double batches = 0;  // that its statistics have seen
};

using RowsOfRank = std::function<std::vector<int64_t>(const Communicator&)>;

ResNetStep resnet_step(const Split& split, const RowsOfRank& rows, Activations activations) {
  return on_ranks(split.ranks, [&](Communicator& comm) {
    ClipModel model(tiny_resnet_config(), cpu_backend(), DType::kF64);
    model.clip.towers.activations = activations;
    randomize(model.parameters);
    model.parameters.allocate_training_state();
    contrast_and_gradients(model, rows_of_batch(0, rows(comm), split.micro_batches, 64), comm);
    const auto& stem = std::get<ModifiedResNet>(model.clip.visual).bn1;
    return ResNetStep{to_doubles(model.parameters.gradients()),
                      to_doubles(model.parameters.buffer_values()),
                      stem.num_batches_tracked.value().item()};
  })[static_cast<size_t>(split.ranks - 1)];
}

void expect_equal(const ResNetStep& actual, const ResNetStep& expected) {
  expect_relative(actual.gradients, expected.gradients, 1e-12);  // roundings of 1e-16
  expect_relative(actual.running, expected.running, 1e-12);
  EXPECT_EQ(actual.batches, expected.batches);
}

TEST(ResNetOverRanks, GivesTheGradientsAndStatisticsOfOneProcess) {
  const auto rows = [](const Communicator& comm) { return rows_of_rank(comm, 6); };
  const ResNetStep expected = resnet_step({1, 1}, rows, Activations::kKept);
  EXPECT_EQ(expected.batches, 1);
  for (const int64_t ranks : {2, 3})
    for (const Activations activations : {Activations::kKept, Activations::kRecomputed})
      expect_equal(resnet_step({ranks, 1}, rows, activations), expected);
}

TEST(ResNetOverRanks, NormalisesEachMicroBatchOverAllRanksAndMovesStatisticsOnceForIt) {
  // One process whose micro-batches hold what those of two ranks hold together.
  const auto together = [](const Communicator&) {
    return std::vector<int64_t>{0, 1, 4, 5, 2, 3, 6, 7};
  };
  const auto rows = [](const Communicator& comm) { return rows_of_rank(comm, 8); };
  const ResNetStep expected = resnet_step({1, 2}, together, Activations::kKept);
  EXPECT_EQ(expected.batches, 2);
  for (const Activations activations : {Activations::kKept, Activations::kRecomputed})
    expect_equal(resnet_step({2, 2}, rows, activations), expected);
}

TEST(ToDevice, RefusesMicroBatchesOfUnequalSize) {
  EXPECT_THROW(rows_of_batch(0, range(0, 5), 2), Error);
}

}  // namespace
}  // namespace clip
