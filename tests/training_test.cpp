// What training can and cannot learn, and that it gives the same bits.
#include "models/training.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>

#include "engine/random.h"
#include "models/evaluation.h"
#include "tests/tiny_clip.h"

namespace clip {
namespace {

/// 128 pictures of noise, each with a caption of its own.
Batch random_pairs(int64_t count) {
  Random random(5, random_stream("pairs"));
  std::vector<uint8_t> pixels(static_cast<size_t>(count * 24 * 24 * 3));
  for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random.bits());
  std::vector<std::vector<int32_t>> captions;
  for (int64_t i = 0; i < count; ++i)
    captions.push_back({62, static_cast<int32_t>(i % 60), static_cast<int32_t>(random.below(60)),
                        static_cast<int32_t>(i / 60), 63});
  return {Tensor::from<uint8_t>(cpu_backend(), {count, 24, 24, 3}, pixels),
          pack_tokens(captions, cpu_backend())};
}

/// Trains from OpenAI's initialisation; returns the model's losses.
std::vector<double> train(ClipModel& model, const std::vector<Batch>& batches, int64_t steps,
                          double peak) {
  initialize(model.parameters, model.clip.config, 1);
  AdamW optimizer(model.parameters, {.weight_decay = 0.1, .max_norm = 1.0});
  const LearningRate lr{.lr = peak, .warmup_steps = steps / 10, .total_steps = steps};
  const auto comm = make_single_communicator();
  std::vector<double> losses;
  for (int64_t step = 0; step < steps; ++step) {
    const Batch& batch = batches[static_cast<size_t>(step) % batches.size()];
    losses.push_back(train_step(model, optimizer, {batch}, lr.at(step), *comm).loss());
  }
  return losses;
}

TEST(Training, StartsNearTheLossOfChance) {
  ClipModel model(tiny_config(), cpu_backend());
  EXPECT_NEAR(train(model, {random_pairs(128)}, 1, 0)[0], std::log(128.0), 1.0);
}

TEST(SlowTraining, LearnsAHundredAndTwentyEightPairsByHeart) {
  ClipModel model(tiny_config(), cpu_backend());
  const Batch batch = random_pairs(128);
  train(model, {batch}, 150, 3e-3);
  const Retrieval retrieval = retrieve(l2_normalize(model.clip.encode_image(batch.images)).value(),
                                       l2_normalize(model.clip.encode_text(batch.tokens)).value());
  EXPECT_EQ(retrieval.text_of_image.correct, 128);
  EXPECT_EQ(retrieval.image_of_text.correct, 128);
}

/// A small model for scenes of 32 pixels.
ClipConfig scene_config(int64_t vocab_size) {
  ClipConfig config;
  config.embed_dim = 64;
  config.vision = {.image_size = 32, .patch_size = 8, .width = 64, .layers = 2, .head_width = 32};
  config.text = {
      .context_length = 16, .vocab_size = vocab_size, .width = 64, .heads = 2, .layers = 2};
  return config;
}

/// Zero-shot top-1 on new scenes after training on scenes with their own captions, or with those of
/// other scenes.
Proportion named_right(const EmojiScenes& scenes, const Tokenizer& tokenizer, bool own_captions) {
  ClipModel model(scene_config(tokenizer.vocab_size()), cpu_backend());
  std::vector<Batch> batches;
  for (int64_t step = 0; step < 200; ++step) {
    HostBatch batch;
    for (int64_t i = step * 64; i < (step + 1) * 64; ++i) {
      const Sample sample = scenes.get(i, 0);
      batch.images.insert(batch.images.end(), sample.image.pixels.begin(),
                          sample.image.pixels.end());
      const std::string caption = own_captions ? sample.caption : scenes.get(i, 1).caption;
      batch.tokens.push_back(tokenizer.tokenize(caption, 16));
    }
    batches.push_back(to_device(batch, 32, cpu_backend())[0]);
  }
  train(model, batches, 200, 2e-3);
  return evaluate_scenes(model.clip, tokenizer, scenes, nullptr, 840).seen;
}

TEST(SlowTraining, CaptionsOfOtherScenesStayAtChanceWhereRightOnesAreLearned) {
  EmojiScenes::Options options;
  options.font = "/nonexistent";  // drawn shapes: the same everywhere
  const EmojiScenes scenes(options);
  const Tokenizer tokenizer = Tokenizer::learn(scenes.captions(), 700);
  const double chance = 1.0 / static_cast<double>(scenes.object_count() * scenes.color_count());
  const Proportion right = named_right(scenes, tokenizer, true),
                   wrong = named_right(scenes, tokenizer, false);
  EXPECT_GT(right.low(), 10 * chance);
  // What a model names without having learned anything may be right by luck for a cell or two of 84.
  EXPECT_LT(wrong.low(), 3 * chance);
}

TEST(Training, TwoRunsGiveTheSameBits) {
  const auto run = [] {
    ClipModel model(tiny_config(), cpu_backend());
    train(model, {random_pairs(64)}, 5, 1e-3);
    return model.parameters.values().to_vector<float>();
  };
  EXPECT_EQ(run(), run());
}

TEST(Training, AnyThreadCountGivesTheSameBits) {
  const int threads = omp_get_max_threads();
  const auto run = [](int count, DType dtype) {
    omp_set_num_threads(count);
    ClipModel model(tiny_config(), cpu_backend(), dtype);
    train(model, {random_pairs(32)}, 3, 1e-3);
    return to_doubles(model.parameters.values());
  };
  for (DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    const auto alone = run(1, dtype);
    for (const int count : {2, 3}) EXPECT_EQ(alone, run(count, dtype)) << dtype;
  }
  omp_set_num_threads(threads);
}

TEST(Training, ASkippedStepLeavesTheModelAsItWas) {
  ClipModel model(tiny_config(), cpu_backend());
  initialize(model.parameters, model.clip.config, 1);
  AdamW optimizer(model.parameters, {});
  Tensor scale = model.parameters.find("visual.proj").value();
  std::vector<float> poisoned = scale.to_vector<float>();
  poisoned[0] = std::numeric_limits<float>::infinity();
  scale.copy_from_host(poisoned.data());
  const auto before = model.clip.text.text_projection.value().to_vector<float>();
  const auto comm = make_single_communicator();
  EXPECT_TRUE(train_step(model, optimizer, {random_pairs(8)}, 1e-3, *comm).skipped());
  EXPECT_EQ(model.clip.text.text_projection.value().to_vector<float>(), before);
}

TEST(LossFloor, IsTheMeanLogarithmOfTheCopiesOfACaption) {
  EXPECT_DOUBLE_EQ(loss_floor({{1}, {2}, {3}}), 0.0);
  EXPECT_DOUBLE_EQ(loss_floor({{1}, {1}, {2}, {1}}), 3 * std::log(3.0) / 4);
}

TEST(LossFloor, OfTheSigmoidLossIsTheLeastOverAllLogitsThatCopiesShare) {
  for (const int64_t copies : {1, 2, 3, 128}) {
    const auto m = static_cast<double>(copies);
    double least = 1e9;  // of a row: one pair that matches, copies - 1 that do not
    for (double logit = -10; logit <= 40; logit += 1e-4)
      least = std::min(
          least, std::log1p(std::exp(-logit)) +
                     (m - 1) * (std::max(logit, 0.0) + std::log1p(std::exp(-std::abs(logit)))));
    // The least value is flat: 1e-4 beside it costs 1e-8 or so.
    EXPECT_NEAR(loss_of_copies(LossKind::kSigmoid, copies), least, 1e-7) << copies;
  }
  EXPECT_DOUBLE_EQ(loss_floor({{1}, {1}, {2}, {2}}, LossKind::kSigmoid), 2 * std::log(2.0));
}

}  // namespace
}  // namespace clip
