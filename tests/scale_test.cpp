// What a step costs on paper, held against the bytes that it takes and against sums done by hand.
#include "models/scale.h"

#include <gtest/gtest.h>

#include <string>

#include "models/flop.h"
#include "models/training.h"
#include "tests/counting_backend.h"
#include "tests/error_message.h"
#include "tests/one_of_many_ranks.h"

namespace clip {
namespace {

/// Towers of different depth, whose activations outweigh what the count leaves out (offsets, the
/// gradients of the pooled rows).
ClipConfig counted_config() {
  ClipConfig config;
  config.embed_dim = 24;
  config.vision = {.image_size = 32, .patch_size = 8, .width = 48, .layers = 4, .head_width = 16};
  config.text = {.context_length = 12, .vocab_size = 64, .width = 32, .heads = 2, .layers = 3};
  return config;
}

std::vector<Batch> made_up_batches(const ClipConfig& config, const ScalePlan& plan,
                                   Backend& backend) {
  HostBatch batch;
  const int64_t size = config.vision.image_size, pairs = plan.rank_pairs();
  batch.images.assign(static_cast<size_t>(pairs * size * size * 3), 128);
  for (int64_t i = 0; i < pairs; ++i)
    batch.tokens.emplace_back(static_cast<size_t>(plan.text_length), static_cast<int32_t>(i % 64));
  return to_device(batch, size, backend, plan.accum_freq);
}

double real(int64_t value) { return static_cast<double>(value); }

/// A model of the plan on a backend that counts.
struct Counted {
  explicit Counted(const ScalePlan& plan, const ClipConfig& config = counted_config())
      : model(config, backend, plan.precision), comm(plan.ranks) {
    initialize(model.parameters, config, 1);
    model.parameters.allocate_training_state();
    model.clip.towers.activations = plan.activations;
    state = real(backend.now());
    batches = made_up_batches(config, plan, backend);
  }

  CountingBackend backend;
  ClipModel model;
  OneOfManyRanks comm;
  double state;
  std::vector<Batch> batches;
};

std::vector<ScalePlan> small_plans() {
  std::vector<ScalePlan> plans;
  for (const DType precision : {DType::kF32, DType::kBF16})
    for (const Activations activations : {Activations::kKept, Activations::kRecomputed})
      plans.push_back(
          {.batch_size = 64, .text_length = 9, .precision = precision, .activations = activations});
  return plans;
}

std::string title_of(const ScalePlan& plan) {
  return concat(plan.precision, plan.activations == Activations::kKept ? " kept" : " recomputed",
                ", ", plan.ranks, " ranks, ", plan.accum_freq, " micro-batches");
}

TEST(ScaleMemory, CountsWhatTheForwardPassLeavesForBackward) {
  for (const ScalePlan& plan : small_plans()) {
    SCOPED_TRACE(title_of(plan));
    Counted counted(plan);
    const StepMemory memory = step_memory(counted_config(), plan);
    const double before = real(counted.backend.now());
    Tape tape;
    const Contrast result = contrast(counted.model.clip, counted.batches[0], counted.comm);
    const double kept = real(counted.backend.now()) - before;
    // Two of the four feature tensors are gradients, which come later. Offsets and row numbers of
    // sequences, a few I32 a pair, are not counted.
    const double expected = memory.activations + memory.features / 2 + memory.gathered;
    EXPECT_NEAR(kept / expected, 1, 0.002);
  }
}

TEST(ScaleMemory, CountsTheStateAndThePeakOfAStep) {
  for (ScalePlan plan : small_plans())
    for (const auto& [ranks, accum_freq] : {std::pair{1, 1}, {1, 3}, {40, 1}}) {
      plan.ranks = ranks;
      plan.accum_freq = accum_freq;
      SCOPED_TRACE(title_of(plan));
      Counted counted(plan);
      const StepMemory memory = step_memory(counted_config(), plan);
      EXPECT_EQ(counted.state,
                memory.parameters + memory.gradients + memory.moments + memory.rounded_values);
      contrast_and_gradients(counted.model, counted.batches, counted.comm);
      const double pixels = real(counted.batches[0].images.bytes() * accum_freq);
      const double taken = real(counted.backend.peak()) - counted.state;
      // Gradients of pooled rows and the kernels' own sums are not counted. The pictures of the next
      // step were not there.
      const double expected = memory.peak - counted.state - pixels;
      EXPECT_NEAR(taken / expected, 1, 0.01);
    }
}

TEST(ScaleMemory, CountsTheLossOfManyRanks) {
  const int64_t rows = 64, ranks = 128, width = 24;
  CountingBackend backend;
  Tensor rows_of = Tensor::zeros(backend, {rows, width}, DType::kF32);
  const Variable images(rows_of, true), texts(rows_of.clone(), true);
  const Variable scale(Tensor::zeros(backend, {}, DType::kF32), true);
  const double before = real(backend.now());
  OneOfManyRanks comm(ranks);
  Tape tape;
  tape.backward(clip_loss(images, texts, scale, comm));
  const StepMemory memory =
      step_memory(counted_config(), {.ranks = ranks, .batch_size = rows, .text_length = 9});
  // Scalars, and row sums that live for a moment.
  EXPECT_NEAR(
      (real(backend.peak()) - before) / (memory.gathered + memory.tiles + memory.features / 2), 1,
      0.01);
}

TEST(ScaleMemory, FindsTheLargestBatchThatFits) {
  const ClipConfig config = preset("ViT-B-32");
  const double bytes = 80e9;
  ScalePlan plan{.ranks = 8, .precision = DType::kBF16};
  plan.batch_size = largest_batch(config, plan, bytes);
  EXPECT_LE(step_memory(config, plan).peak, bytes);
  ++plan.batch_size;
  EXPECT_GT(step_memory(config, plan).peak, bytes);
  EXPECT_EQ(largest_batch(config, plan, 1e9), 0);  // the parameters alone take more
}

Machines round_machines() {
  return {.flop_per_s = 1e12,
          .loss_flop_per_s = 1e11,
          .local_bytes_per_s = 1e9,
          .link_bytes_per_s = 1e8,
          .ranks_per_machine = 4};
}

TEST(ScaleTime, OfOneRankIsItsFlopAndNothingElseButTheLoss) {
  const ClipConfig config = preset("tiny");
  const StepTime time = step_time(config, {.batch_size = 10, .text_length = 12}, round_machines());
  EXPECT_DOUBLE_EQ(time.compute, 10 * needed_flop(config, 12) / 1e12);
  EXPECT_DOUBLE_EQ(time.loss, 8 * 10.0 * 10 * real(config.embed_dim) / 1e11);
  EXPECT_EQ(time.gather, 0);
  EXPECT_EQ(time.reduce, 0);
  EXPECT_EQ(time.exposed, 0);
}

TEST(ScaleTime, AddsAForwardPassForMicroBatchesAndOneForRecomputation) {
  const ClipConfig config = preset("tiny");
  ScalePlan plan{.batch_size = 10, .text_length = 12};
  const double plain = step_time(config, plan, round_machines()).compute;
  plan.activations = Activations::kRecomputed;
  EXPECT_NEAR(step_time(config, plan, round_machines()).compute / plain, 4.0 / 3, 1e-12);
  plan.accum_freq = 2;
  EXPECT_NEAR(step_time(config, plan, round_machines()).compute / plain, 2 * 5.0 / 3, 1e-12);
}

TEST(ScaleTime, OfCollectivesIsThatOfRingsOverTheSlowestLink) {
  const ClipConfig config = preset("tiny");
  const Machines machines = round_machines();
  const double elements = step_memory(config, {}).gradients / 4, width = real(config.embed_dim);
  const StepTime near = step_time(config, {.ranks = 4, .batch_size = 10}, machines);
  EXPECT_NEAR(near.reduce, 2 * 3 / 4.0 * 4 * elements / 1e9, 1e-12);
  EXPECT_NEAR(near.gather, 3 * 10 * 2 * (width + 1) * 4 / 1e9, 1e-12);
  const StepTime far = step_time(config, {.ranks = 8, .batch_size = 10}, machines);
  EXPECT_NEAR(far.reduce, 2 * 7 / 8.0 * 4 * elements / 1e8, 1e-12);
}

TEST(ScaleTime, HidesWhatIsSummedBeforeBackwardEnds) {
  const ClipConfig config = preset("ViT-B-32");
  Machines machines = round_machines();
  const ScalePlan plan{.ranks = 4, .batch_size = 1000};
  const StepTime slow_towers = step_time(config, plan, machines);
  // Backward takes 19 s. The first block and the patches, 9.5 million elements, come last, and with
  // them what shares a range.
  EXPECT_GT(slow_towers.exposed, 0);
  EXPECT_LT(slow_towers.exposed, 1.5 * 4 * (9.5e6 + (8 << 20)) / 1e9);
  machines.flop_per_s = 1e18;  // backward takes no time: nothing hides
  const StepTime fast_towers = step_time(config, plan, machines);
  EXPECT_NEAR(fast_towers.exposed / fast_towers.reduce, 1, 1e-3);
}

TEST(Scale, RefusesPlansWithoutPairs) {
  const ClipConfig config = preset("tiny");
  EXPECT_NE(error_message([&] { step_memory(config, {.ranks = 0}); }).find("0 ranks"),
            std::string::npos);
  EXPECT_NE(error_message([&] { step_time(config, {}, {}); }).find("rates"), std::string::npos);
}

TEST(Scale, RefusesModelsWhoseBytesItDoesNotCount) {
  ClipConfig average = preset("tiny");
  average.vision.pool = Pool::kAverage;
  for (const auto& [config, what] : {std::pair{preset("RN50"), "ResNet"},
                                     {preset("ViT-M-16-alt"), "LayerScale"},
                                     {average, "average"}}) {
    for (const std::string& message :
         {error_message([&] { step_memory(config, {}); }),
          error_message([&] { step_time(config, {}, round_machines()); })})
      EXPECT_TRUE(says(message, "[scale]", what)) << message;
  }
}

}  // namespace
}  // namespace clip
