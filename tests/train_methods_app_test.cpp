// apps/train's other ways of training: the sigmoid loss, patch dropout, locked towers.
#include "models/clip.h"
#include "models/safetensors.h"
#include "tests/train_app_test.h"

namespace clip {
namespace {

using nlohmann::json;

class TrainMethods : public TrainApp {
 protected:
  /// A tensor of a run's checkpoint.
  std::vector<float> tensor(const std::string& run, int64_t step, const std::string& name) const {
    const SafetensorsFile file(checkpoint(run, step) + kWeights);
    const StoredTensor* entry = file.find(name);
    if (entry == nullptr) return {};
    int64_t count = 1;
    for (const int64_t size : entry->shape) count *= size;
    std::vector<float> values(static_cast<size_t>(count));
    file.read(*entry, name, DType::kF32, values.data());
    return values;
  }

  AppResult lit(const std::string& name, const Strings& own) const {
    const Strings all =
        with({"--pretrained", "runs/start", "--steps", "6", "--log-every-n-steps", "1"}, own);
    return train(name, all);
  }

  std::vector<double> losses(const std::string& name) const {
    std::vector<double> values;
    for (const json& entry : log(name)) values.push_back(entry["loss"]);
    return values;
  }
};

constexpr const char* kImageWeight = "visual.transformer.resblocks.0.attn.in_proj_weight";
constexpr const char* kTextWeight = "transformer.resblocks.0.attn.in_proj_weight";

TEST_F(TrainMethods, SiglipTrainsAScaleAndABiasThatTheCheckpointKeeps) {
  ASSERT_EQ(train("start", {"--siglip", "--steps", "0"}).status, 0);
  EXPECT_EQ(tensor("start", 0, "logit_bias"), std::vector<float>{-10});
  EXPECT_EQ(tensor("start", 0, "logit_scale"),
            std::vector<float>{static_cast<float>(std::log(10.0))});
  const AppResult result = train(
      "a", {"--siglip", "--siglip-bias-init", "-2.5", "--steps", "20", "--log-every-n-steps", "1"});
  ASSERT_EQ(result.status, 0) << result.err;
  const float bias = tensor("a", 20, "logit_bias").at(0);
  EXPECT_NE(bias, -2.5f);
  EXPECT_NEAR(bias, -2.5f, 0.1);  // 20 steps of at most 5e-4
  const ClipConfig config = load_config(checkpoint("a", 20));
  EXPECT_EQ(config.init_logit_bias, -2.5);
  EXPECT_EQ(config.init_logit_scale, std::log(10.0));
  // ln G + (G - 1) ln(G / (G - 1)) with G = 8: what a bias alone can reach.
  const double chance = std::log(8.0) + 7 * std::log(8.0 / 7);
  EXPECT_NEAR(log("a")[0]["loss_chance"].get<double>(), chance, 1e-12);
  EXPECT_LT(losses("a").back(), losses("a").front());

  ASSERT_EQ(train("b", {"--siglip", "--siglip-bias-init", "-2.5", "--steps", "10",
                        "--log-every-n-steps", "1", "--lr-scheduler", "const", "--warmup", "0"})
                .status,
            0);
  ASSERT_EQ(resume({"runs/b", "--steps", "20"}).status, 0);
  ASSERT_EQ(train("c", {"--siglip", "--siglip-bias-init", "-2.5", "--steps", "20",
                        "--log-every-n-steps", "1", "--lr-scheduler", "const", "--warmup", "0"})
                .status,
            0);
  expect_equal_runs("b", "c", 20);
}

TEST_F(TrainMethods, ASiglipModelNamesPicturesWithEachLabelsOwnProbability) {
  ASSERT_EQ(train("a", {"--siglip", "--siglip-bias-init", "-1", "--steps", "2"}).status, 0);
  const AppResult result = run_app("zero_shot",
                                   {"--checkpoint", "runs/a", "--images", "pairs/00.png",
                                    "--labels", "red cat,green house,blue tree", "--json"},
                                   folder_);
  ASSERT_EQ(result.status, 0) << result.err;
  double total = 0;
  const json pictures = json::parse(result.out);
  for (const json& guess : pictures[0]["guesses"]) {
    const double probability = guess["probability"];
    EXPECT_GT(probability, 0);
    EXPECT_LT(probability, 1);
    total += probability;
  }
  EXPECT_GT(std::abs(total - 1), 1e-3);
}

TEST_F(TrainMethods, ALockedResNetKeepsItsWeightsAndRunningStatistics) {
  folder_.write("m.json", kSmallResNet);
  ASSERT_EQ(train("start", {"--steps", "2", "--precision", "bf16"}).status, 0);
  const AppResult result = lit("a", {"--lock-image"});
  ASSERT_EQ(result.status, 0) << result.err;
  const auto is_kept = [&](const std::string& name) {
    const auto values = tensor("start", 2, name);
    EXPECT_FALSE(values.empty()) << name;
    return values == tensor("a", 6, name);
  };
  EXPECT_TRUE(is_kept("visual.layer2.0.conv1.weight"));
  EXPECT_TRUE(is_kept("visual.layer2.0.bn1.running_mean"));
  EXPECT_FALSE(is_kept(kTextWeight));
  EXPECT_EQ(run_app("zero_shot",
                    {"--checkpoint", "runs/a", "--images", "pairs/00.png", "--labels", "cat,tree"},
                    folder_)
                .status,
            0);
  expect_refused(train("c", {"--patch-dropout", "0.5"}), "train", 2, {"--patch-dropout", "ResNet"});
}

TEST_F(TrainMethods, ACheckpointKeepsItsLoss) {
  ASSERT_EQ(train("clip", {"--steps", "1"}).status, 0);
  ASSERT_EQ(train("siglip", {"--siglip", "--steps", "1"}).status, 0);
  expect_refused(train("a", {"--pretrained", "runs/clip", "--siglip"}), "train", 2,
                 {"--siglip", "runs/clip", "no logit_bias"});
  ASSERT_EQ(train("b", {"--pretrained", "runs/siglip", "--steps", "0"}).status, 0);
  EXPECT_EQ(tensor("b", 0, "logit_bias"), tensor("siglip", 1, "logit_bias"));
}

TEST_F(TrainMethods, PatchDropoutGivesOtherWeightsAndTheSameEachTime) {
  const auto trained = [&](const std::string& name, const Strings& own) {
    const Strings all = with({"--steps", "4"}, own);
    const AppResult result = train(name, all);
    EXPECT_EQ(result.status, 0) << result.err;
    return weights(name, 4);
  };
  const std::string plain = trained("plain", {}),
                    half = trained("half", {"--patch-dropout", "0.5"});
  EXPECT_TRUE(trained("zero", {"--patch-dropout", "0"}) == plain);
  EXPECT_FALSE(half == plain);
  EXPECT_TRUE(trained("again", {"--patch-dropout", "0.5", "--workers", "0"}) == half);
}

TEST_F(TrainMethods, ALockedTowerStaysAndItsFeaturesAreKeptInTheRun) {
  ASSERT_EQ(train("start", {"--steps", "2"}).status, 0);
  for (const bool image : {true, false}) {
    const std::string name = image ? "image" : "text";
    const AppResult result = lit(name, {"--lock-" + name, "--augment", "none"});
    ASSERT_EQ(result.status, 0) << result.err;
    const char* locked = image ? kImageWeight : kTextWeight;
    const char* trained = image ? kTextWeight : kImageWeight;
    ASSERT_FALSE(tensor("start", 2, locked).empty());
    EXPECT_EQ(tensor(name, 6, locked), tensor("start", 2, locked));
    EXPECT_NE(tensor(name, 6, trained), tensor("start", 2, trained));
    const Names features = names_in(run_path(name) + "/features");
    ASSERT_EQ(features.size(), 1u);
    EXPECT_TRUE(features.begin()->starts_with(name + "-"));
    // 24 pairs of width 16, one record each.
    EXPECT_EQ(std::filesystem::file_size(run_path(name) + "/features/" + *features.begin()),
              24u * (16 + 16 * 4));
  }
}

TEST_F(TrainMethods, CropsAreNotKept) {
  ASSERT_EQ(train("start", {"--steps", "2"}).status, 0);
  ASSERT_EQ(lit("a", {"--lock-image"}).status, 0);
  EXPECT_TRUE(names_in(run_path("a") + "/features").empty());
}

TEST_F(TrainMethods, KeptFeaturesServeTheNextRunAndAResumedOne) {
  ASSERT_EQ(train("start", {"--steps", "2"}).status, 0);
  const Strings own = {"--lock-image",    "--augment", "none",
                       "--feature-cache", "kept",      "--lr-scheduler",
                       "const",           "--warmup",  "0"};
  ASSERT_EQ(lit("a", own).status, 0);
  const Names files = names_in(folder_.path("kept"));
  ASSERT_EQ(files.size(), 1u);
  ASSERT_EQ(lit("b", own).status, 0);
  EXPECT_EQ(names_in(folder_.path("kept")), files);
  ASSERT_EQ(losses("a").size(), 6u);
  for (size_t i = 0; i < 6; ++i)
    EXPECT_NEAR(losses("b")[i], losses("a")[i], 2e-5);  // F32 products of other numbers of rows
  const Strings first = with({"--pretrained", "runs/start", "--log-every-n-steps", "1"}, own);
  ASSERT_EQ(train("c", with(first, {"--steps", "3"})).status, 0);
  ASSERT_EQ(resume({"runs/c", "--steps", "6"}).status, 0);
  expect_equal_runs("b", "c", 6);
}

TEST_F(TrainMethods, RefusesWhatMakesNoSense) {
  ASSERT_EQ(train("start", {"--steps", "2"}).status, 0);
  expect_refused(train("a", {"--lock-image"}), "train", 2, {"--lock-image needs --pretrained"});
  expect_refused(train("a", {"--patch-dropout", "1"}), "train", 2, {"--patch-dropout", "got 1"});
  expect_refused(lit("a", {"--lock-image", "--patch-dropout", "0.5"}), "train", 2,
                 {"--patch-dropout must be 0 with --lock-image", "0.5"});
  folder_.write("file", "");
  expect_refused(lit("b", {"--lock-text", "--feature-cache", "file"}), "train", 1,
                 {"folder of features file"});
}

}  // namespace
}  // namespace clip
