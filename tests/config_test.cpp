#include "models/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/check.h"
#include "tests/error_message.h"

namespace clip {
namespace {

using nlohmann::json;

// Every weight of CLIP, counted from the sizes alone.
int64_t block_parameters(int64_t width, int64_t mlp_width) {
  const int64_t attention = 3 * width * width + 3 * width + width * width + width;
  return 4 * width + attention + 2 * width * mlp_width + mlp_width + width;
}

int64_t parameters(const ClipConfig& config) {
  const VisionConfig& vision = config.vision;
  const TextConfig& text = config.text;
  const int64_t conv1 = vision.width * 3 * vision.patch_size * vision.patch_size;
  const int64_t image_tower = vision.width + (vision.patches() + 1) * vision.width + conv1 +
                              4 * vision.width + vision.width * config.embed_dim +
                              vision.layers * block_parameters(vision.width, vision.mlp_width());
  const int64_t text_tower = text.vocab_size * text.width + text.context_length * text.width +
                             2 * text.width + text.width * config.embed_dim +
                             text.layers * block_parameters(text.width, text.mlp_width());
  return image_tower + text_tower + 1;
}

// model_cfg of a small model; tests change one field of it.
json small_model() {
  return json::parse(R"({
    "embed_dim": 64, "quick_gelu": true,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 96, "head_width": 48, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 600, "width": 64, "heads": 2, "layers": 3}})");
}

json small_file() { return {{"model_cfg", small_model()}}; }

std::string refusal(const json& file) {
  return error_message([&] { config_from_json(file.dump(), "some/config.json"); });
}

TEST(Config, PresetsHaveTheParameterCountsOfOpenClip) {
  // Source: the modules of open_clip 3.3.0, counted; the ViT-B and ViT-L agree with OpenAI's.
  const std::map<std::string, int64_t> expected = {
      {"ViT-S-32-alt", 43'224'449},       {"ViT-S-16-alt", 42'396'161},
      {"ViT-M-32-alt", 80'070'273},       {"ViT-S-32", 63'085'825},
      {"ViT-S-16", 62'257'537},           {"ViT-M-32", 103'119'873},
      {"ViT-M-16", 102'015'489},          {"ViT-B-32", 151'277'313},
      {"ViT-B-16", 149'620'737},          {"ViT-B-32-256", 151'288'833},
      {"ViT-L-14", 427'616'513},          {"ViT-L-14-336", 427'944'193},
      {"ViT-H-14", 986'109'441},          {"ViT-H-14-378-quickgelu", 986'714'881},
      {"ViT-g-14", 1'366'678'273},        {"ViT-bigG-14", 2'539'567'105},
      {"ViT-B-32-quickgelu", 151'277'313}};
  for (const auto& [name, count] : expected) EXPECT_EQ(parameters(preset(name)), count) << name;
}

TEST(Config, PlainNamesComputeGeluAndQuickgeluNamesQuickGelu) {
  for (const std::string name : {"RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B-32",
                                 "ViT-B-16", "ViT-L-14", "ViT-L-14-336"}) {
    EXPECT_EQ(preset(name).gelu, Gelu::kErf) << name;
    ClipConfig quick = preset(name + "-quickgelu");
    EXPECT_EQ(quick.gelu, Gelu::kQuick) << name;
    quick.gelu = Gelu::kErf;
    EXPECT_EQ(to_json(quick), to_json(preset(name))) << name;
  }
}

TEST(Config, EveryPresetFitsItselfAndSurvivesItsFile) {
  for (const std::string& name : preset_names()) {
    const ClipConfig config = preset(name);
    EXPECT_NO_THROW(config.check()) << name;
    EXPECT_EQ(to_json(config_from_json(to_json(config), name)), to_json(config)) << name;
  }
}

TEST(Config, AnUnknownPresetIsAUsageErrorThatListsTheNames) {
  EXPECT_THROW(preset("ViT-B-33"), UsageError);
  const std::string message = error_message([] { preset("ViT-B-33"); });
  EXPECT_TRUE(says(message, "ViT-B-33", "ViT-B-32-quickgelu", "tiny", "emoji", ".json")) << message;
  EXPECT_EQ(to_json(preset("ViT-L/14")), to_json(preset("ViT-L-14")));
}

TEST(Config, TheFileSaysWhatOpenClipReads) {
  const json file = json::parse(to_json(preset("ViT-g-14")));
  const json& model = file["model_cfg"];
  EXPECT_EQ(model["embed_dim"], 1024);
  EXPECT_EQ(model["quick_gelu"], false);
  EXPECT_EQ(model["vision_cfg"], json::parse(R"({"image_size": 224, "layers": 40, "width": 1408,
      "head_width": 88, "mlp_ratio": 4.3637, "patch_size": 14})"));
  EXPECT_EQ(model["text_cfg"]["context_length"], 77);
  EXPECT_EQ(model["text_cfg"]["heads"], 16);
  EXPECT_NE(model["text_cfg"]["hf_tokenizer_name"], "");
  const json& pixels = file["preprocess_cfg"];
  EXPECT_EQ(pixels["size"], 224);
  EXPECT_EQ(pixels["mean"], json({0.48145466, 0.4578275, 0.40821073}));
  EXPECT_EQ(pixels["std"], json({0.26862954, 0.26130258, 0.27577711}));
  EXPECT_EQ(pixels["interpolation"], "bicubic");
  EXPECT_EQ(json::parse(to_json(preset("emoji")))["model_cfg"]["quick_gelu"], true);
}

TEST(Config, AbsentFieldsHaveOpenClipsDefaults) {
  const ClipConfig config = config_from_json(
      R"({"model_cfg": {"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}}})", "file");
  EXPECT_EQ(to_json(config), to_json(preset("ViT-B-16")));
}

TEST(Config, ReadsAModelConfigWithoutItsFrame) {
  const ClipConfig config = config_from_json(small_model().dump(), "file");
  EXPECT_EQ(to_json(config), to_json(config_from_json(small_file().dump(), "file")));
  EXPECT_EQ(config.vision.heads(), 2);
  EXPECT_EQ(config.vision.patches(), 16);
  EXPECT_EQ(config.gelu, Gelu::kQuick);
}

TEST(Config, CutsTheHiddenWidthAsOpenClipDoes) {
  // Python's int(): 1664 * 4.9231 = 8192.04, 10 * 3.79 = 37.9
  EXPECT_EQ(preset("ViT-bigG-14").vision.mlp_width(), 8192);
  EXPECT_EQ((TextConfig{.width = 10, .mlp_ratio = 3.79}.mlp_width()), 37);
}

TEST(Config, SquareSizesMayBeLists) {
  json file = small_file();
  file["model_cfg"]["vision_cfg"]["image_size"] = {32, 32};
  file["model_cfg"]["vision_cfg"]["patch_size"] = {8, 8};
  EXPECT_EQ(config_from_json(file.dump(), "file").vision.image_size, 32);
  file["model_cfg"]["vision_cfg"]["image_size"] = {32, 48};
  const std::string message = refusal(file);
  EXPECT_TRUE(says(message, "some/config.json", "vision_cfg.image_size", "[32,48]")) << message;
}

TEST(Config, RefusesFieldsThatAskForAnotherModel) {
  const std::vector<std::pair<const char*, json>> cases = {
      {"/model_cfg/custom_text", true},
      {"/model_cfg/multimodal_cfg", json::object()},
      {"/model_cfg/init_logit_bias", "-10"},
      {"/model_cfg/vision_cfg/timm_model_name", "convnext_base"},
      {"/model_cfg/vision_cfg/attentional_pool", true},
      {"/model_cfg/vision_cfg/pool_type", "none"},
      {"/model_cfg/vision_cfg/pos_embed_type", "sin_cos_2d"},
      {"/model_cfg/vision_cfg/act_kwargs", {{"approximate", "tanh"}}},
      {"/model_cfg/vision_cfg/norm_kwargs", {{"eps", 1e-6}}},
      {"/model_cfg/vision_cfg/qk_norm", true},
      {"/model_cfg/vision_cfg/block_type", "custom"},
      {"/model_cfg/text_cfg/hf_model_name", "roberta-base"},
      {"/model_cfg/text_cfg/pool_type", "last"},
      {"/model_cfg/text_cfg/proj_type", "none"},
      {"/model_cfg/text_cfg/proj_bias", true},
      {"/model_cfg/text_cfg/embed_cls", true},
      {"/model_cfg/text_cfg/no_causal_mask", true},
      {"/model_cfg/text_cfg/scale_fc", true},
      {"/model_cfg/text_cfg/tokenizer_mode", "clips"},
      {"/model_cfg/text_cfg/tokenizer_kwargs", {{"clean", "canonicalize"}}},
      {"/preprocess_cfg/mode", "L"},
      {"/preprocess_cfg/mean", {0.5, 0.5}},
      {"/preprocess_cfg/mean", {0.5, 0.5, 1e300}},
      {"/preprocess_cfg/std", {0.5, 0.5, 0}},
      {"/preprocess_cfg/std", {0.5, 0.5, 1e-60}},
      {"/preprocess_cfg/std", "0.5"},
      {"/preprocess_cfg/interpolation", "lanczos"},
      {"/preprocess_cfg/resize_mode", 1},
      {"/preprocess_cfg/fill_color", 256},
      {"/model_cfg/vision_cfg/new_idea", 1},
      {"/model_cfg/text_cfg/new_idea", true},
      {"/model_cfg/new_idea", "x"},
  };
  for (const auto& [place, value] : cases) {
    json file = small_file();
    file[json::json_pointer(place)] = value;
    const std::string message = refusal(file);
    const std::string field = json::json_pointer(place).back();
    EXPECT_TRUE(says(message, "some/config.json: ", field, "got " + value.dump()))
        << place << ": " << message;
  }
}

TEST(Config, KeepsTheSigmoidLossInOpenClipsFields) {
  EXPECT_EQ(preset("tiny").loss(), LossKind::kSoftmax);
  EXPECT_FALSE(json::parse(to_json(preset("tiny")))["model_cfg"].contains("init_logit_bias"));
  const ClipConfig config = with_sigmoid_loss(preset("tiny"), -10);
  EXPECT_EQ(config.loss(), LossKind::kSigmoid);
  const json model = json::parse(to_json(config))["model_cfg"];
  EXPECT_EQ(model["init_logit_bias"], -10);
  EXPECT_EQ(model["init_logit_scale"], std::log(10.0));
  const ClipConfig read = config_from_json(to_json(config), "x");
  EXPECT_EQ(read.init_logit_bias, config.init_logit_bias);
  EXPECT_EQ(read.init_logit_scale, config.init_logit_scale);
}

TEST(Config, ReadsTheResNetsAndPoolsOfOpenClipsFiles) {
  json file = small_file();
  json& vision = file["model_cfg"]["vision_cfg"];
  vision = {{"image_size", 64}, {"layers", {3, 4, 6, 3}}, {"width", 64}, {"patch_size", nullptr}};
  const ClipConfig resnet = config_from_json(file.dump(), "file");
  EXPECT_EQ(resnet.vision.stages, (std::vector<int64_t>{3, 4, 6, 3}));
  EXPECT_EQ(resnet.vision.heads(), 32);
  EXPECT_EQ(resnet.vision.patches(), 4);
  EXPECT_EQ(to_json(config_from_json(to_json(resnet), "file")), to_json(resnet));
  file = small_file();
  file["model_cfg"]["vision_cfg"].update({{"no_ln_pre", true},
                                          {"pool_type", "avg"},
                                          {"final_ln_after_pool", true},
                                          {"ls_init_value", 1e-4}});
  file["model_cfg"]["text_cfg"]["ls_init_value"] = 0.1;
  const ClipConfig vit = config_from_json(file.dump(), "file");
  EXPECT_TRUE(vit.vision.no_ln_pre && vit.vision.final_ln_after_pool);
  EXPECT_EQ(vit.vision.pool, Pool::kAverage);
  EXPECT_EQ(vit.vision.ls_init_value, 1e-4);
  EXPECT_EQ(vit.text.ls_init_value, 0.1);
  EXPECT_EQ(to_json(config_from_json(to_json(vit), "file")), to_json(vit));
}

TEST(Config, AResNetsSizesMustFitItsStridesAndHeads) {
  for (const auto& [field, value] : std::vector<std::pair<const char*, json>>{
           {"image_size", 48}, {"width", 7}, {"head_width", 100}}) {
    json file = small_file();
    file["model_cfg"]["vision_cfg"] = {{"image_size", 64}, {"layers", {1, 1, 1, 1}}, {"width", 64}};
    file["model_cfg"]["vision_cfg"][field] = value;
    const std::string message = refusal(file);
    EXPECT_TRUE(says(message, "some/config.json: ", field)) << message;
  }
}

TEST(Config, AcceptsFieldsThatChangeNothing) {
  json file = small_file();
  file["name"] = "anything outside model_cfg";
  file["model_cfg"].update({{"custom_text", false},
                            {"init_logit_scale", 2.6593},
                            {"init_logit_bias", nullptr},
                            {"nonscalar_logit_scale", true},
                            {"unheard_of", nullptr}});
  file["model_cfg"]["vision_cfg"].update({{"timm_model_name", nullptr},
                                          {"timm_pool", "avg"},
                                          {"patch_dropout", 0.5},
                                          {"attentional_pool", false},
                                          {"attn_pooler_queries", 256},
                                          {"pool_type", "tok"},
                                          {"ls_init_value", nullptr},
                                          {"norm_kwargs", json::object()},
                                          {"output_tokens", true}});
  file["model_cfg"]["text_cfg"].update({{"hf_tokenizer_name", "somebody/else"},
                                        {"pool_type", "argmax"},
                                        {"pad_id", 0},
                                        {"eos_id", 2}});
  file["preprocess_cfg"] = {{"mean", nullptr},
                            {"std", {0.26862954, 0.26130258, 0.27577711}},
                            {"interpolation", "random"},
                            {"size", {32, 32}}};
  const ClipConfig config = config_from_json(file.dump(), "file");
  EXPECT_EQ(to_json(config), to_json(config_from_json(small_file().dump(), "file")));
}

TEST(Config, PictureRulesSurviveTheirFile) {
  ClipConfig config = preset("emoji");
  config.vision.preprocess = {.mean = {0.5, 0.4, 0.3},
                              .std = {1, 2, 3},
                              .interpolation = Interpolation::kBilinear,
                              .resize_mode = ResizeMode::kLongest,
                              .short_side = 48,
                              .crop_rounding = CropRounding::kDown,
                              .fill_color = 127};
  EXPECT_EQ(config_from_json(to_json(config), "file").vision.preprocess, config.vision.preprocess);
  config.vision.preprocess.resize_mode = ResizeMode::kSquash;
  EXPECT_EQ(config_from_json(to_json(config), "file").vision.preprocess, config.vision.preprocess);
}

TEST(Config, OneNumberStandsForAllChannels) {
  json file = small_file();
  file["preprocess_cfg"] = {{"mean", 0.5}, {"std", 0.25}};
  const Preprocess rules = config_from_json(file.dump(), "file").vision.preprocess;
  EXPECT_EQ(rules.mean, (std::array{0.5, 0.5, 0.5}));
  EXPECT_EQ(rules.std, (std::array{0.25, 0.25, 0.25}));
}

TEST(Config, NamesTheFieldOfAWrongOrMissingValue) {
  const std::vector<std::pair<const char*, json>> cases = {
      {"/model_cfg/embed_dim", "512"},
      {"/model_cfg/embed_dim", -1},
      {"/model_cfg/embed_dim", 1.5},
      {"/model_cfg/embed_dim", 0},
      {"/model_cfg/quick_gelu", "yes"},
      {"/model_cfg/vision_cfg", json::array()},
      {"/model_cfg/vision_cfg/width", nullptr},
      {"/model_cfg/vision_cfg/width", 1e300},
      {"/model_cfg/vision_cfg/mlp_ratio", "4"},
      {"/model_cfg/vision_cfg/mlp_ratio", -4},
      {"/model_cfg/vision_cfg/head_width", 36},
      {"/model_cfg/vision_cfg/head_width", 0},
      {"/model_cfg/vision_cfg/patch_size", 7},
      {"/model_cfg/vision_cfg/image_size", 9'000'000'000'000'000},
      {"/model_cfg/vision_cfg/layers", 18'446'744'073'709'551'615u},
      {"/model_cfg/vision_cfg/layers", json::array()},
      {"/model_cfg/vision_cfg/layers", {3, 4, 6}},
      {"/model_cfg/vision_cfg/layers", {3, 4, 0, 3}},
      {"/model_cfg/vision_cfg/layers", {3, 4, "6", 3}},
      {"/model_cfg/vision_cfg/ls_init_value", 0},
      {"/model_cfg/vision_cfg/ls_init_value", 2},
      {"/model_cfg/vision_cfg/no_ln_pre", 1},
      {"/model_cfg/text_cfg/heads", 3},
      {"/model_cfg/text_cfg/context_length", 1},
      {"/model_cfg/text_cfg/vocab_size", 0},
  };
  for (const auto& [place, value] : cases) {
    json file = small_file();
    file[json::json_pointer(place)] = value;
    const std::string message = refusal(file);
    EXPECT_TRUE(says(message, "some/config.json: ", json::json_pointer(place).back()))
        << place << " = " << value << ": " << message;
  }
  for (const char* field : {"embed_dim", "vision_cfg", "text_cfg"}) {
    json file = small_file();
    file["model_cfg"].erase(field);
    const std::string message = refusal(file);
    EXPECT_TRUE(says(message, "some/config.json: ", field, "is missing")) << message;
  }
}

TEST(Config, TellsWhereATextIsNoJson) {
  const std::string whole = small_file().dump();
  for (size_t length = 0; length < whole.size(); ++length) {
    const std::string message =
        error_message([&] { config_from_json(whole.substr(0, length), "some/config.json"); });
    EXPECT_TRUE(says(message, "some/config.json: no valid JSON", "byte")) << message;
  }
  const std::string huge =
      error_message([] { config_from_json(R"({"embed_dim": 1e999})", "some/config.json"); });
  EXPECT_TRUE(says(huge, "some/config.json: no valid JSON", "out of range")) << huge;
  const std::string number = error_message([] { config_from_json("3", "some/config.json"); });
  EXPECT_TRUE(says(number, "some/config.json: must hold an object")) << number;
}

TEST(Config, RefusesRepeatedKeysAndDeepNesting) {
  const std::string twice = error_message(
      [] { config_from_json(R"({"embed_dim": 1, "embed_dim": 2})", "some/config.json"); });
  EXPECT_TRUE(says(twice, "some/config.json", "\"embed_dim\" occurs twice")) << twice;
  const std::string deep =
      error_message([] { config_from_json(std::string(1'000'000, '['), "some/config.json"); });
  EXPECT_TRUE(says(deep, "some/config.json", "nested")) << deep;
}

}  // namespace
}  // namespace clip
