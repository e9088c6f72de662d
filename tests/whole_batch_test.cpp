// Any number of ranks and micro-batches gives the gradients of one process on the whole batch.
#include "tests/whole_batch.h"

#include <functional>

#include "tests/op_cases.h"
#include "tests/reference_values.h"
#include "tests/thread_ranks.h"

namespace clip {
namespace {

struct Split {
  int64_t ranks, micro_batches;
};

std::vector<double> gradients(const Split& split, int64_t pairs, const Way& way) {
  return on_ranks(split.ranks, [&](Communicator& comm) {
    return gradients_on_rank(comm, pairs, split.micro_batches, way);
  })[0];
}

/// Loss, gradients of scale, bias and features, of all ranks' rows together.
std::vector<double> loss_in_tiles(LossKind kind, int64_t ranks, int64_t tile_columns) {
  constexpr int64_t kPairs = 12, kWidth = 4;
  const Tensor features = random_tensor({2, kPairs, kWidth}, DType::kF64, cpu_backend(), 1, 0);
  const int64_t rows = kPairs / ranks;
  const auto by_rank = on_ranks(ranks, [&](Communicator& comm) {
    const auto own = [&](int64_t side) {
      const Tensor all = features.slice(side, side + 1).reshape({kPairs, kWidth});
      return Variable(all.slice(comm.rank() * rows, (comm.rank() + 1) * rows).clone(), true);
    };
    const auto scalar = [](double value) {
      return Variable(Tensor::from<double>(cpu_backend(), {}, {value}), true);
    };
    const Variable images = own(0), texts = own(1), scale = scalar(1), bias = scalar(-2);
    Tape tape;
    const Variable loss = kind == LossKind::kSoftmax
                              ? clip_loss(images, texts, scale, comm, tile_columns)
                              : siglip_loss(images, texts, scale, bias, comm, tile_columns);
    tape.backward(loss);
    std::vector<Tensor> shares = {loss.value(), scale.grad()};  // the ranks' add up
    if (kind == LossKind::kSigmoid) shares.push_back(bias.grad());
    std::vector<double> values;
    for (Tensor& share : shares) {
      comm.all_reduce_sum(share);
      values.push_back(share.item());
    }
    for (const Variable& side : {images, texts}) {
      const auto gradient = gathered(side.grad(), comm).to_vector<double>();
      values.insert(values.end(), gradient.begin(), gradient.end());
    }
    return values;
  });
  return by_rank[0];
}

TEST(LossInTiles, IsTheSameAtAnyWidthOnAnyNumberOfRanks) {
  for (const LossKind kind : {LossKind::kSoftmax, LossKind::kSigmoid}) {
    const auto expected = loss_in_tiles(kind, 1, 4096);
    for (const int64_t ranks : {1, 2, 3, 4})
      for (const int64_t tile : {1, 2, 5, 6, 4096}) {
        SCOPED_TRACE(concat("kind ", static_cast<int>(kind), ", ", ranks, " ranks, tile ", tile));
        expect_near(loss_in_tiles(kind, ranks, tile), expected, 1e-12);
      }
  }
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
        expect_near(gradients(GetParam(), pairs, way), expected, 1e-12);
      }
    }
}

TEST(LockedTowers, LeaveTheGradientsOfTheOtherTowerAsTheyAreAtAnySplit) {
  // Parameters lie in the flat buffer last to first: the scale, the text tower, the image tower.
  const auto all = gradients({1, 1}, 12, {});
  for (const Split split : {Split{1, 1}, Split{1, 3}, Split{2, 1}, Split{3, 2}}) {
    const auto text = gradients(split, 12, {.locked = {.image = true}});
    ASSERT_LT(text.size(), all.size());
    expect_near(text, {all.begin(), all.begin() + static_cast<std::ptrdiff_t>(text.size())}, 1e-12);
    const auto scale = gradients(split, 12, {.locked = {.image = true, .text = true}});
    ASSERT_EQ(scale.size(), static_cast<size_t>(kParameterBlock));
    expect_near(scale, {all.begin(), all.begin() + kParameterBlock}, 1e-12);
  }
}

std::vector<double> losses_of_twenty_steps(const Split& split, int64_t pairs) {
  return on_ranks(split.ranks, [&](Communicator& comm) {
    return twenty_steps_on_rank(comm, pairs, split.micro_batches).losses;
  })[0];
}

TEST_P(EverySplit, TrainsWithTheLossesOfOneProcess) {
  const auto [ranks, micro_batches] = GetParam();
  const int64_t parts = ranks * micro_batches;
  // The fewer pairs a mean is of, the less it evens out roundings.
  const int64_t pairs = (24 + parts - 1) / parts * parts;
  expect_losses(losses_of_twenty_steps(GetParam(), pairs), losses_of_twenty_steps({1, 1}, pairs),
                concat(ranks, " ranks, ", micro_batches, " micro-batches"));
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
  expect_near(actual.gradients, expected.gradients, 1e-12);  // roundings of 1e-16
  expect_near(actual.running, expected.running, 1e-12);
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
