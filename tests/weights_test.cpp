// Weights in the files of other libraries, as those wrote them: reference/weights/.
#include "models/weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "models/clip.h"
#include "models/safetensors.h"
#include "tests/error_message.h"
#include "tests/reference_features.h"
#include "tests/reference_path.h"
#include "tests/scratch_folder.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

std::string stored(const std::string& name) { return reference_path("weights/" + name); }

const nlohmann::json& reference() {
  static const nlohmann::json values =
      nlohmann::json::parse(std::ifstream(reference_path("weights_features.json")));
  return values;
}

/// The sizes of the small models, for those whose heads are not 64 wide.
std::string small_model(const ScratchFolder& folder, bool quick_gelu, int text_layers = 1) {
  return folder.write("small.json",
                      concat(R"({"embed_dim": 12, "quick_gelu": )", quick_gelu ? "true" : "false",
                             R"(, "vision_cfg": {"image_size": 8, "patch_size": 4, "width": 16,
                             "head_width": 8, "layers": 1}, "text_cfg": {"context_length": 12,
                             "vocab_size": 48, "width": 16, "heads": 4, "layers": )",
                             text_layers, "}}"));
}

// Sums of at most 64 products in F32, in two blocks.
constexpr double kTolerance = 1e-5;

void expect_equal(const std::string& name, const WeightChoice& choice = {}) {
  const FeatureDifference found = compare_features(stored(name), choice, reference().at(name));
  EXPECT_LT(found.image, kTolerance) << name;
  EXPECT_LT(found.text, kTolerance) << name;
  EXPECT_TRUE(found.same_matches) << name;
}

TEST(Weights, AnOpenAiArchiveGivesItsOwnFeatures) { expect_equal("openai.pt"); }
TEST(Weights, AnOpenAiResNetGivesItsOwnFeatures) { expect_equal("resnet.pt"); }
TEST(Weights, AnOpenClipFolderGivesItsOwnFeatures) { expect_equal("open_clip"); }
TEST(Weights, AHuggingFaceFolderGivesItsOwnFeatures) { expect_equal("hugging_face"); }
TEST(Weights, AHuggingFaceFolderInShardsGivesItsOwnFeatures) { expect_equal("hugging_face_gelu"); }

TEST(Weights, AStateDictOfBfloat16GivesItsOwnFeatures) {
  const ScratchFolder folder;
  expect_equal("state_dict.bin", {.model = small_model(folder, false)});
}

TEST(Weights, ATrainingCheckpointGivesItsOwnFeatures) {
  const ScratchFolder folder;
  expect_equal("training.pt", {.model = small_model(folder, false)});
}

TEST(Weights, AnotherActivationIsSeenInTheFeatures) {
  const ScratchFolder folder;
  const FeatureDifference found =
      compare_features(stored("state_dict.bin"), {.model = small_model(folder, true)},
                       reference().at("state_dict.bin"));
  EXPECT_GT(found.image, 10 * kTolerance);
  EXPECT_GT(found.text, 10 * kTolerance);
}

TEST(Weights, ANanAmongTheFeaturesIsADifference) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_DOUBLE_EQ(relative_difference({1, 2, -4}, {1, 2.5, -4}), 0.125);
  for (const std::vector<float>& ours : {std::vector{kNan, 2.f, -4.f}, {1, kNan, -4}, {1, 2, kNan}})
    EXPECT_TRUE(std::isnan(relative_difference(ours, {1, 2, -4})));
  EXPECT_TRUE(std::isnan(relative_difference({1, 2, -4}, {1, kNan, -4})));
}

TEST(Weights, AnOpenAiArchiveTellsItsSizesAndActivation) {
  const ClipConfig config = load_config(stored("openai.pt"));
  EXPECT_EQ(config.gelu, Gelu::kQuick);
  EXPECT_EQ(config.vision.head_width, 64);
  EXPECT_EQ(config.vision.image_size, 8);
  EXPECT_EQ(config.vision.mlp_width(), 16);
  EXPECT_EQ(config.text.heads, 1);
  EXPECT_EQ(config.text.context_length, 12);
  EXPECT_EQ(config.text.vocab_size, 48);
}

TEST(Weights, AnOpenAiResNetTellsItsSizesAndActivation) {
  const ClipConfig config = load_config(stored("resnet.pt"));
  EXPECT_EQ(config.gelu, Gelu::kQuick);
  EXPECT_EQ(config.vision.stages, (std::vector<int64_t>{2, 1, 1, 1}));
  EXPECT_EQ(config.vision.width, 2);
  EXPECT_EQ(config.vision.image_size, 64);
  EXPECT_EQ(config.text.mlp_width(), 16);
}

TEST(Weights, AFileBesideItsConfigurationIsReadWithIt) {
  EXPECT_EQ(to_json(load_config(stored("open_clip/open_clip_model.safetensors"))),
            to_json(load_config(stored("open_clip"))));
  EXPECT_EQ(to_json(load_config(stored("hugging_face/model.safetensors"))),
            to_json(load_config(stored("hugging_face"))));
}

TEST(Weights, AFileOfUnknownOriginNeedsToBeToldTheActivation) {
  const ScratchFolder folder;
  const std::string alone = folder.path("alone.safetensors");
  fs::copy(stored("open_clip/open_clip_model.safetensors"), alone);
  const std::string heads = error_message([&] { load_config(alone); });
  EXPECT_TRUE(says(heads, alone, "16", "no multiples of 64", "--model")) << heads;
  EXPECT_EQ(load_config(alone, {.model = small_model(folder, true, 2)}).gelu, Gelu::kQuick);
}

TEST(Weights, AModelOfTheOtherActivationIsRefusedForAnArchiveThatTellsIts) {
  const std::string message =
      error_message([&] { load_config(stored("openai.pt"), {.model = "ViT-B-32"}); });
  EXPECT_TRUE(says(message, "--model ViT-B-32", "exact GELU", "openai.pt", "QuickGELU")) << message;
}

TEST(Weights, TheOptionDecidesTheActivationOfAFolder) {
  EXPECT_EQ(load_config(stored("hugging_face_gelu")).gelu, Gelu::kErf);
  EXPECT_EQ(load_config(stored("hugging_face_gelu"), {.model = "", .force_quick_gelu = true}).gelu,
            Gelu::kQuick);
}

TEST(Weights, ANamedModelMustBeTheOneThatTheConfigurationDescribes) {
  const ScratchFolder folder, folder_of_other;
  const std::string same = small_model(folder, true, 2);
  const std::string other = small_model(folder_of_other, false, 2);
  const auto message = [&](const std::string& model, bool quick) {
    return error_message(
        [&] { load_config(stored("open_clip"), {.model = model, .force_quick_gelu = quick}); });
  };
  EXPECT_EQ(message(same, false), "(no error)");
  EXPECT_EQ(message(other, true), "(no error)");
  EXPECT_TRUE(says(message(other, false), "--model " + other, "open_clip_config.json", "QuickGELU"))
      << message(other, false);
  EXPECT_TRUE(says(message("RN50", false), "--model RN50", "open_clip_config.json"));
  EXPECT_FALSE(says(message("RN50", false), "GELU"));
}

TEST(Weights, AFolderWithoutItsConfigurationIsRefusedUnlessTheModelIsNamed) {
  const ScratchFolder folder;
  fs::copy(stored("open_clip"), folder.path("model"));
  fs::remove(folder.path("model/open_clip_config.json"));
  const std::string message = error_message([&] { load_config(folder.path("model")); });
  EXPECT_TRUE(says(message, folder.path("model"), "open_clip_config.json", "--model")) << message;
  EXPECT_EQ(load_config(folder.path("model"), {.model = small_model(folder, true, 2)}).text.layers,
            2);
}

// A copy of the sharded folder whose files may be changed.
class ShardedFolder : public ::testing::Test {
 protected:
  ShardedFolder() { fs::copy(stored("hugging_face_gelu"), folder_.path("model")); }

  std::string refusal() {
    return error_message([&] {
      ClipModel model(load_config(folder_.path("model")), cpu_backend());
      load_parameters(folder_.path("model"), model.parameters);
    });
  }

  nlohmann::json read(const std::string& name) {
    return nlohmann::json::parse(std::ifstream(folder_.path("model/" + name)));
  }

  ScratchFolder folder_;
};

TEST_F(ShardedFolder, NamesTheShardThatIsMissing) {
  fs::remove(folder_.path("model/model-00002-of-00002.safetensors"));
  EXPECT_TRUE(says(refusal(), "model-00002-of-00002.safetensors", "No such file")) << refusal();
}

TEST_F(ShardedFolder, AShardMayHoldNoneOfTheTellingNames) {
  auto index = read("model.safetensors.index.json");
  std::map<std::string, std::vector<SafetensorsItem>> shards;
  std::vector<std::vector<float>> numbers;
  numbers.reserve(index["weight_map"].size());
  for (auto& [name, file] : index["weight_map"].items()) {
    const SafetensorsFile source(folder_.path("model/" + file.get<std::string>()));
    const StoredTensor& tensor = *source.find(name);
    numbers.emplace_back(static_cast<size_t>(tensor.numel()));
    source.read(tensor, name, DType::kF32, numbers.back().data());
    const bool tells = name.starts_with("text_model.") || name.starts_with("vision_model.");
    file = tells ? "a.safetensors" : "b.safetensors";
    shards[file].push_back({name, DType::kF32, tensor.shape, numbers.back().data()});
  }
  for (const auto& [file, items] : shards)
    write_safetensors(folder_.path("model/" + file), items, {});
  folder_.write("model/model.safetensors.index.json", index.dump());
  EXPECT_EQ(refusal(), "(no error)");
}

TEST_F(ShardedFolder, RefusesAnIndexThatLeadsOutOfTheFolder) {
  folder_.write("model/model.safetensors.index.json", R"({"weight_map": {"a": "../secret"}})");
  EXPECT_TRUE(says(refusal(), "index.json", "../secret", "beside the index")) << refusal();
  folder_.write("model/model.safetensors.index.json", "[1]");
  EXPECT_TRUE(says(refusal(), "index.json", "weight_map")) << refusal();
}

TEST_F(ShardedFolder, RefusesAConfigurationOfAnotherModel) {
  auto config = read("config.json");
  const auto expect = [&](const nlohmann::json& changed, auto... parts) {
    folder_.write("model/config.json", changed.dump());
    EXPECT_TRUE(says(refusal(), "config.json", parts...)) << refusal();
  };
  auto other = config;
  other["model_type"] = "siglip";
  expect(other, "model_type", "siglip");
  other = config;
  other["text_config"]["hidden_act"] = "quick_gelu";
  expect(other, "text_config.hidden_act", "vision_config.hidden_act", "differ");
  other["vision_config"]["hidden_act"] = other["text_config"]["hidden_act"] = "relu";
  expect(other, "hidden_act", "relu");
  other = config;
  other["vision_config"]["layer_norm_eps"] = 1e-6;
  expect(other, "vision_config.layer_norm_eps", "1e-06");
  other = config;
  other["text_config"]["num_attention_heads"] = 5;
  expect(other, "text_config.hidden_size", "16", "5");
}

TEST_F(ShardedFolder, AFieldOfTheOlderDictWins) {
  auto config = read("config.json");
  config["text_config"]["num_attention_heads"] = 2;
  config["text_config_dict"] = {{"num_attention_heads", 4}};
  folder_.write("model/config.json", config.dump());
  EXPECT_EQ(load_config(folder_.path("model")).text.heads, 4);
}

TEST_F(ShardedFolder, PicturesArePreparedAsThePreprocessorSays) {
  EXPECT_EQ(load_config(folder_.path("model")).vision.preprocess,
            Preprocess{.crop_rounding = CropRounding::kDown});
  folder_.write("model/preprocessor_config.json",
                R"({"image_mean": [0.5, 0.5, 0.5], "resample": 2, "size": 12, "crop_size": 8})");
  const Preprocess rules = load_config(folder_.path("model")).vision.preprocess;
  EXPECT_EQ(rules.mean, (std::array{0.5, 0.5, 0.5}));
  EXPECT_EQ(rules.interpolation, Interpolation::kBilinear);
  EXPECT_EQ(rules.short_side, 12);
  folder_.write("model/preprocessor_config.json", R"({"resample": 1, "size": 8, "crop_size": 8})");
  EXPECT_TRUE(says(refusal(), "preprocessor_config.json", "resample", "1")) << refusal();
}

TEST_F(ShardedFolder, PicturesArePreparedAsTheProcessorOfTransformers5Says) {
  folder_.write("model/preprocessor_config.json", R"({"resample": 2, "size": 8, "crop_size": 8})");
  for (const char* without :
       {R"({"processor_class": "CLIPProcessor"})", R"({"image_processor": null})"}) {
    folder_.write("model/processor_config.json", without);
    EXPECT_EQ(load_config(folder_.path("model")).vision.preprocess.interpolation,
              Interpolation::kBilinear);
  }
  folder_.write("model/processor_config.json",
                R"({"image_processor": {"image_mean": 0.5, "size": 12, "crop_size": 8}})");
  const Preprocess rules = load_config(folder_.path("model")).vision.preprocess;
  EXPECT_EQ(rules.mean, (std::array{0.5, 0.5, 0.5}));
  EXPECT_EQ(rules.interpolation, Interpolation::kBicubic);
  EXPECT_EQ(rules.short_side, 12);
  folder_.write("model/processor_config.json",
                R"({"image_processor": {"resample": 1, "size": 8, "crop_size": 8}})");
  EXPECT_TRUE(says(refusal(), "/processor_config.json", "image_processor.resample", "1"))
      << refusal();
}

TEST(Weights, ALogitBiasTellsTheSigmoidLoss) {
  const ScratchFolder folder;
  const Weights weights(stored("open_clip/open_clip_model.safetensors"));
  std::vector<SafetensorsItem> items;
  std::vector<std::vector<float>> numbers;
  numbers.reserve(weights.all().size());
  for (const auto& [name, weight] : weights.all()) {
    numbers.emplace_back(static_cast<size_t>(weight.numel()));
    weight.read(DType::kF32, numbers.back().data());
    items.push_back({name, DType::kF32, weight.shape(), numbers.back().data()});
  }
  const float bias = -3.5;
  items.push_back({"logit_bias", DType::kF32, {1}, &bias});
  const std::string alone = folder.path("alone.safetensors");
  write_safetensors(alone, items, {});
  const ClipConfig config = load_config(alone, {.model = small_model(folder, true, 2)});
  EXPECT_EQ(config.loss(), LossKind::kSigmoid);
  ClipModel model(config, cpu_backend());
  load_parameters(alone, model.parameters);
  EXPECT_EQ(model.clip.logit_bias.value().item(), -3.5);
}

}  // namespace
}  // namespace clip
