// apps/convert and apps/inspect from outside: every way there and back keeps every bit.
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "models/checkpoint.h"
#include "models/clip.h"
#include "models/export.h"
#include "models/safetensors.h"
#include "models/weights.h"
#include "tests/app_process.h"
#include "tests/app_samples.h"
#include "tests/error_message.h"
#include "tests/file_size_limit.h"
#include "tests/reference_path.h"
#include "tests/small_checkpoint.h"
#include "tests/tiny_clip.h"

namespace clip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class ConvertApp : public ::testing::Test {
 protected:
  std::string stored(const std::string& name) { return reference_path("weights/" + name); }

  AppResult convert(const Strings& arguments) { return run_app("convert", arguments, folder_); }

  /// Converts and expects it to work; returns the folder written.
  std::string converted(const std::string& from, const std::string& to, const std::string& out,
                        const Strings& more = {}) {
    const AppResult result = convert(with({from, "--to", to, "--out", out}, more));
    EXPECT_EQ(result.status, 0) << result.err;
    EXPECT_FALSE(holds_temporaries(folder_.path()));
    return folder_.path(out);
  }

  json inspect(const std::string& path, const Strings& more = {}) {
    const AppResult result = run_app("inspect", with({path, "--json"}, more), folder_);
    EXPECT_EQ(result.status, 0) << result.err;
    return json::parse(result.out);
  }

  ScratchFolder folder_;
};

std::vector<float> numbers_of(const Weight& weight) {
  std::vector<float> numbers(static_cast<size_t>(weight.numel()));
  weight.read(DType::kF32, numbers.data());
  return numbers;
}

void expect_same_bits(const std::string& a, const std::string& b) {
  const Weights first(a), second(b);
  ASSERT_EQ(first.all().size(), second.all().size());
  for (const auto& [name, weight] : first.all()) {
    EXPECT_EQ(second.at(name).shape(), weight.shape()) << name;
    EXPECT_EQ(numbers_of(second.at(name)), numbers_of(weight)) << name;
  }
}

TEST_F(ConvertApp, ThroughEveryLayoutAndBackEveryBitIsKept) {
  const std::string original = stored("hugging_face/model.safetensors");
  converted(stored("hugging_face"), "open_clip", "a");
  converted("a", "huggingface", "b");
  converted("b", "huggingface", "c", {"--dtype", "fp16"});  // as which it was stored
  expect_same_bits(original, folder_.path("a/open_clip_model.safetensors"));
  expect_same_bits(original, folder_.path("c/model.safetensors"));
  EXPECT_EQ(Weights(folder_.path("c/model.safetensors")).at("logit_scale").dtype(), "F16");
  EXPECT_EQ(to_json(load_config(folder_.path("c"))), to_json(load_config(stored("hugging_face"))));
}

TEST_F(ConvertApp, OpenAiStateDictsKeepEveryBitAndTheActivation) {
  const std::string config = folder_.write("own.json", R"({"embed_dim": 8, "quick_gelu": true,
      "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1},
      "text_cfg": {"context_length": 16, "vocab_size": 530, "width": 64, "heads": 1, "layers": 1}})");
  ClipModel model(preset_or_file(config), cpu_backend());
  initialize(model.parameters, model.clip.config, 3);
  save_checkpoint(folder_.path("own"), model.clip.config, model.parameters,
                  Tokenizer::learn({"a cat", "a dog"}, 530), nullptr);
  converted("own", "openai", "a");
  converted("a/model.pt", "open_clip", "b");
  expect_same_bits(folder_.path("own/open_clip_model.safetensors"), folder_.path("a/model.pt"));
  EXPECT_EQ(file_bytes(folder_.path("own/open_clip_model.safetensors")),
            file_bytes(folder_.path("b/open_clip_model.safetensors")));
  EXPECT_EQ(to_json(load_config(folder_.path("b"))), to_json(model.clip.config));
  EXPECT_EQ(file_bytes(folder_.path("own/tokenizer.json")),
            file_bytes(folder_.path("b/tokenizer.json")));
}

TEST_F(ConvertApp, AResNetKeepsItsRunningStatisticsAndIsKnownByItsShapes) {
  ClipConfig config = tiny_resnet_config();
  config.vision.head_width = 64;
  config.text.heads = 1;
  config.text.width = 64;
  config.text.vocab_size = small_tokenizer().vocab_size();
  ClipModel model(config, cpu_backend());
  randomize(model.parameters);
  save_checkpoint(folder_.path("a"), config, model.parameters, small_tokenizer(), nullptr);
  converted("a", "openai", "b", {"--force-quick-gelu"});
  converted("b/model.pt", "open_clip", "c", {"--force-quick-gelu"});
  expect_same_bits(folder_.path("a/open_clip_model.safetensors"),
                   folder_.path("c/open_clip_model.safetensors"));
  EXPECT_EQ(load_config(folder_.path("c")).vision.stages, config.vision.stages);
}

TEST_F(ConvertApp, RunningStatisticsAreNotRoundedWithTheParameters) {
  ClipConfig config = tiny_resnet_config();
  config.text.vocab_size = small_tokenizer().vocab_size();
  ClipModel model(config, cpu_backend());
  randomize(model.parameters);
  const float batches = 100'000;  // more than a half can hold
  for (const Parameter& buffer : model.parameters.buffers())
    if (Tensor value = buffer.variable.value(); value.rank() == 0) value.copy_from_host(&batches);
  save_checkpoint(folder_.path("a"), config, model.parameters, small_tokenizer(), nullptr);
  const Weights rounded(converted("a", "open_clip", "b", {"--dtype", "fp16"}) +
                        "/open_clip_model.safetensors");
  EXPECT_EQ(rounded.at("visual.layer1.0.bn1.weight").dtype(), "F16");
  for (const Parameter& buffer : model.parameters.buffers()) {
    EXPECT_EQ(rounded.at(buffer.name).dtype(), "F32") << buffer.name;
    EXPECT_EQ(numbers_of(rounded.at(buffer.name)), buffer.variable.value().to_vector<float>())
        << buffer.name;
  }
}

TEST_F(ConvertApp, RefusesWhatAnotherLibrarysFilesCannotSay) {
  const auto expect = [&](const char* what, const Strings& layouts, const auto& change) {
    ClipConfig config = config_from_json(kSmallModel, "test");
    config.gelu = Gelu::kQuick;
    config.vision.width = config.vision.head_width = config.text.width = 64;
    config.text.heads = 1;
    change(config);
    ClipModel model(config, cpu_backend());
    initialize(model.parameters, config, 3);
    fs::remove_all(folder_.path("own"));
    save_checkpoint(folder_.path("own"), config, model.parameters,
                    Tokenizer::learn({"a cat", "a dog"}, 530), nullptr);
    for (const std::string& to : layouts)
      expect_refused(convert({"own", "--to", to, "--out", "x"}), "convert", 1, {what, "open_clip"});
    EXPECT_FALSE(fs::exists(folder_.path("x")));
  };
  const Strings both = {"openai", "huggingface"};
  expect("average", both, [](ClipConfig& config) { config.vision.pool = Pool::kAverage; });
  expect("ln_pre", both, [](ClipConfig& config) { config.vision.no_ln_pre = true; });
  expect("LayerScale", both, [](ClipConfig& config) { config.vision.ls_init_value = 0.1; });
  expect("LayerScale", both, [](ClipConfig& config) { config.text.ls_init_value = 0.1; });
  expect("ResNet", {"huggingface"},
         [](ClipConfig& config) { config.vision = tiny_resnet_config().vision; });
  converted("own", "huggingface", "text", {"--text-only"});  // of which there is nothing to say
}

TEST_F(ConvertApp, AFailureNamesTheFolderAskedForAndLeavesNothing) {
  const std::string out = folder_.path("out");
  ClipModel model(tiny_config(), cpu_backend());
  const std::string message = error_message([&] {
    const FileSizeLimit limit(4096);
    export_model(out, model, nullptr, {});
  });
  EXPECT_TRUE(says(message, out + "/open_clip_model.safetensors", "File too large")) << message;
  EXPECT_FALSE(fs::exists(out));
  EXPECT_FALSE(holds_temporaries(folder_.path()));
}

TEST_F(ConvertApp, TheBiasOfASiglipModelIsKeptWhereThereIsAPlaceForIt) {
  ClipConfig config = with_sigmoid_loss(config_from_json(kSmallModel, "test"), -7);
  ClipModel model(config, cpu_backend());
  initialize(model.parameters, config, 3);
  save_checkpoint(folder_.path("own"), config, model.parameters,
                  Tokenizer::learn({"a cat", "a dog"}, 530), nullptr);
  converted("own", "open_clip", "a");
  EXPECT_EQ(file_bytes(folder_.path("own/open_clip_model.safetensors")),
            file_bytes(folder_.path("a/open_clip_model.safetensors")));
  EXPECT_EQ(to_json(load_config(folder_.path("a"))), to_json(config));
  EXPECT_EQ(inspect("a")["loss"], "sigmoid");
  for (const char* other : {"openai", "huggingface"})
    expect_refused(convert({"own", "--to", other, "--out", "x"}), "convert", 1,
                   {"logit_bias", "open_clip"});
  EXPECT_FALSE(fs::exists(folder_.path("x")));
  const Weights text(converted("own", "huggingface", "text", {"--text-only"}) +
                     "/model.safetensors");
  EXPECT_EQ(text.find("logit_bias"), nullptr);
}

TEST_F(ConvertApp, ThePreprocessingIsKeptWhereThereIsAPlaceForIt) {
  ClipConfig config = config_from_json(kSmallModel, "test");
  config.gelu = Gelu::kQuick;
  config.vision.width = config.vision.head_width = config.text.width = 64;
  config.text.heads = 1;
  config.vision.preprocess = {
      .mean = {0.5, 0.25, 0.125}, .interpolation = Interpolation::kBilinear, .short_side = 20};
  ClipModel model(config, cpu_backend());
  initialize(model.parameters, config, 3);
  const Tokenizer tokenizer = Tokenizer::learn({"a cat", "a dog"}, 530);
  save_checkpoint(folder_.path("own"), config, model.parameters, tokenizer, nullptr);
  converted("own", "huggingface", "a");
  converted("a", "open_clip", "b");
  Preprocess expected = config.vision.preprocess;
  expected.crop_rounding = CropRounding::kDown;  // Hugging Face knows no other
  EXPECT_EQ(load_config(folder_.path("b")).vision.preprocess, expected);
  expect_refused(convert({"own", "--to", "openai", "--out", "x"}), "convert", 1,
                 {"prepared in another", "open_clip"});
  converted("own", "open_clip", "big", {"--image-size", "32"});
  EXPECT_EQ(load_config(folder_.path("big")).vision.preprocess.short_side, 40);
  config.vision.preprocess.resize_mode = ResizeMode::kLongest;
  save_checkpoint(folder_.path("longest"), config, model.parameters, tokenizer, nullptr);
  expect_refused(convert({"longest", "--to", "huggingface", "--out", "x"}), "convert", 1,
                 {"CLIPImageProcessor", "open_clip"});
  EXPECT_FALSE(fs::exists(folder_.path("x")));
}

TEST_F(ConvertApp, ATowerAloneHoldsItsParametersAndNoOthers) {
  const std::string folder =
      converted(stored("hugging_face"), "huggingface", "text", {"--text-only"});
  const Weights text(folder + "/model.safetensors");
  EXPECT_EQ(text.find("visual.proj"), nullptr);
  EXPECT_EQ(text.find("logit_scale"), nullptr);
  EXPECT_NE(text.find("text_projection"), nullptr);
  EXPECT_EQ(json::parse(file_bytes(folder + "/config.json"))["model_type"], "clip_text_model");
  const Weights image(converted(stored("hugging_face"), "open_clip", "image", {"--image-only"}) +
                      "/open_clip_model.safetensors");
  EXPECT_NE(image.find("visual.proj"), nullptr);
  EXPECT_EQ(image.find("text_projection"), nullptr);
}

TEST_F(ConvertApp, OtherSizesAreWrittenWithTheirConfiguration) {
  const std::string folder = converted(stored("open_clip"), "open_clip", "big",
                                       {"--image-size", "16", "--context-length", "20"});
  const ClipConfig config = load_config(folder);
  EXPECT_EQ(config.vision.image_size, 16);
  EXPECT_EQ(config.text.context_length, 20);
  ClipModel model(config, cpu_backend());
  EXPECT_TRUE(load_parameters(folder, model.parameters).empty());
  expect_refused(
      convert({stored("open_clip"), "--to", "open_clip", "--out", "x", "--image-size", "15"}),
      "convert", 1, {"image_size 15", "patch_size 4"});
}

TEST_F(ConvertApp, NothingIsOverwrittenUnasked) {
  converted(stored("open_clip"), "open_clip", "a");
  const std::string before = file_bytes(folder_.path("a/open_clip_model.safetensors"));
  const Strings again = {stored("hugging_face"), "--to", "open_clip", "--out", "a"};
  expect_refused(convert(again), "convert", 1, {"a exists already", "--overwrite"});
  EXPECT_EQ(file_bytes(folder_.path("a/open_clip_model.safetensors")), before);
  converted(again[0], "open_clip", "a", {"--overwrite"});
  EXPECT_NE(file_bytes(folder_.path("a/open_clip_model.safetensors")), before);
  folder_.write("home/precious.txt", "x");
  expect_refused(convert({again[0], "--to", "open_clip", "--out", "home", "--overwrite"}),
                 "convert", 1, {"home", "no model's folder"});
  EXPECT_EQ(file_bytes(folder_.path("home/precious.txt")), "x");
}

TEST_F(ConvertApp, RefusesWhatOpenAisCodeWouldComputeOtherwise) {
  expect_refused(convert({stored("hugging_face_gelu"), "--to", "openai", "--out", "x"}), "convert",
                 1, {"QuickGELU", "exact GELU"});
  expect_refused(convert({stored("open_clip"), "--to", "openai", "--out", "x"}), "convert", 1,
                 {"heads 64 wide", "8 and 4"});
  expect_refused(convert({stored("openai.pt"), "--to", "openai", "--out", "x"}), "convert", 1,
                 {"four times"});
  EXPECT_FALSE(fs::exists(folder_.path("x")));
}

TEST_F(ConvertApp, NamesTheOptionThatIsWrong) {
  expect_refused(convert({}), "convert", 2, {"MODEL"});
  expect_refused(convert({"a"}), "convert", 2, {"--out"});
  expect_refused(convert({"a", "--out", "b", "--to", "onnx"}), "convert", 2,
                 {"--to", "huggingface, open_clip or openai", "onnx"});
  expect_refused(convert({"a", "--out", "b", "--to", "openai", "--dtype", "int8"}), "convert", 2,
                 {"--dtype", "int8"});
  expect_refused(convert({"a", "--out", "b", "--to", "openai", "--text-only", "--image-only"}),
                 "convert", 2, {"--text-only", "--image-only"});
  expect_refused(convert({stored("open_clip"), "--out", "b", "--to", "openai", "--text-only"}),
                 "convert", 2, {"OpenAI", "both towers"});
  expect_refused(convert({"a", "b", "--out", "c"}), "convert", 2, {"positional"});
  expect_refused(convert({"nowhere", "--out", "b", "--to", "openai"}), "convert", 1, {"nowhere"});
}

TEST_F(ConvertApp, AStateDictOfUnknownOriginAsksForTheActivation) {
  const std::string own = folder_.path("own.safetensors");
  ClipModel model(preset("ViT-S-32-alt"), cpu_backend());
  std::vector<SafetensorsItem> items;
  for (const Parameter& parameter : model.parameters.parameters()) {
    if (!parameter.name.starts_with("token"))
      items.push_back(item_of(parameter.name, parameter.variable.value()));
  }
  const std::vector<float> few(256 * 600);
  items.push_back({"token_embedding.weight", DType::kF32, {600, 256}, few.data()});
  write_safetensors(own, items, {});
  const Strings arguments = {own, "--to", "open_clip", "--out", "out"};
  expect_refused(convert(arguments), "convert", 2,
                 {"own.safetensors", "QuickGELU or exact GELU", "--force-quick-gelu", "--model"});
  const json report = inspect(own);
  EXPECT_TRUE(report.at("activation").is_null());
  EXPECT_EQ(report["architecture"]["image"]["heads"], 6);
  converted(own, "open_clip", "out", {"--force-quick-gelu"});
  EXPECT_EQ(load_config(folder_.path("out")).gelu, Gelu::kQuick);
}

TEST_F(ConvertApp, InspectTellsWhatAnArchiveHolds) {
  const json report = inspect(stored("openai.pt"), {"--tensors"});
  EXPECT_EQ(report["container"], "TorchScript archive");
  EXPECT_EQ(report["activation"], "QuickGELU");
  EXPECT_EQ(report["architecture"]["image"]["width"], 64);
  EXPECT_EQ(report["parameters"]["total"], 23504 + 23760 + 1);
  EXPECT_EQ(report["dtypes"]["F16"], 19);
  EXPECT_TRUE(report["missing"].empty());
  EXPECT_TRUE(report["left_over"].empty());
  EXPECT_EQ(report["tensors"].size(), 38u);
  const AppResult text = run_app("inspect", {stored("openai.pt")}, folder_);
  EXPECT_NE(text.out.find("activation     QuickGELU"), std::string::npos) << text.out;
}

TEST_F(ConvertApp, InspectTellsAResNetWithItsRunningStatistics) {
  const json report = inspect(stored("resnet.pt"));
  EXPECT_EQ(report["missing"], json::array());
  EXPECT_EQ(report["left_over"], json::array());
  const json& image = report["architecture"]["image"];
  EXPECT_EQ(image["kind"], "ModifiedResNet");
  EXPECT_EQ(image["layers"], json({2, 1, 1, 1}));
  EXPECT_EQ(image["heads"], 1);
  EXPECT_FALSE(image.contains("patch_size") || image.contains("mlp_width")) << image;
  const Clip clip(load_config(stored("resnet.pt")));
  ParameterList list;
  clip.collect(list);
  int64_t buffers = 0;
  for (const Parameter& buffer : list.buffers()) buffers += buffer.variable.shape().numel();
  EXPECT_EQ(report["parameters"]["total"], list.count());
  EXPECT_EQ(report["parameters"]["buffers"], buffers);
  const AppResult text = run_app("inspect", {stored("resnet.pt")}, folder_);
  EXPECT_NE(text.out.find("kind ModifiedResNet, layers [2,1,1,1]"), std::string::npos) << text.out;
}

TEST_F(ConvertApp, InspectShowsTheWeightsBesideAConfigurationOfNoUseAndFails) {
  fs::copy(stored("open_clip"), folder_.path("a"));
  folder_.write("a/open_clip_config.json", R"({"model_cfg": {)");
  const AppResult cut = run_app("inspect", {"a", "--json"}, folder_);
  EXPECT_EQ(cut.status, 1);
  EXPECT_EQ(cut.err, "inspect: a/open_clip_config.json: no valid JSON, syntax error at byte 16\n");
  EXPECT_GT(json::parse(cut.out)["parameters"]["total"], 0);
  converted(stored("hugging_face"), "huggingface", "text", {"--text-only"});
  const AppResult tower = run_app("inspect", {"text"}, folder_);
  EXPECT_EQ(tower.status, 1);
  EXPECT_NE(tower.err.find("\"clip_text_model\", one tower alone"), std::string::npos) << tower.err;
}

TEST_F(ConvertApp, InspectTellsWhatATowerHasBeyondThePlainOne) {
  ClipConfig config = config_from_json(kSmallModel, "test");
  config.vision.pool = Pool::kAverage;
  config.vision.no_ln_pre = true;
  config.text.ls_init_value = 0.1;
  ClipModel model(config, cpu_backend());
  save_checkpoint(folder_.path("own"), config, model.parameters, small_tokenizer(), nullptr);
  const json architecture = inspect("own")["architecture"];
  EXPECT_EQ(architecture["image"]["pool"], "average");
  EXPECT_EQ(architecture["image"]["ln_pre"], false);
  EXPECT_EQ(architecture["text"]["layer_scale"], true);
}

TEST_F(ConvertApp, InspectNamesAModelWhateverItsPreprocessingAndBothWhereTheActivationIsUnknown) {
  ClipConfig config = preset("emoji");
  ClipModel model(config, cpu_backend());
  config.vision.preprocess.interpolation = Interpolation::kBilinear;
  save_checkpoint(folder_.path("own"), config, model.parameters, small_tokenizer(), nullptr);
  EXPECT_EQ(inspect("own")["architecture"]["name"], "emoji");
  const std::string alone = folder_.path("alone.safetensors");
  fs::copy(folder_.path("own/open_clip_model.safetensors"), alone);
  EXPECT_EQ(inspect(alone)["architecture"]["name"], "emoji");
  EXPECT_TRUE(inspect(alone).at("activation").is_null());
}

TEST_F(ConvertApp, InspectTellsWhatIsMissingLeftOverAndNotFinite) {
  fs::copy(stored("open_clip"), folder_.path("a"));
  const Weights weights(stored("open_clip/open_clip_model.safetensors"));
  std::vector<SafetensorsItem> items;
  std::vector<std::vector<float>> numbers;
  numbers.reserve(weights.all().size());
  for (const auto& [name, weight] : weights.all()) {
    numbers.push_back(numbers_of(weight));
    if (name == "ln_final.bias") numbers.back()[3] = std::numeric_limits<float>::quiet_NaN();
    if (name == "visual.proj") continue;
    items.push_back({name, DType::kF32, weight.shape(), numbers.back().data()});
  }
  const float bias = 1;
  items.push_back({"logit_bias", DType::kF32, {}, &bias});
  write_safetensors(folder_.path("a/open_clip_model.safetensors"), items, {});
  const json report = inspect("a");
  EXPECT_EQ(report["missing"], json({"visual.proj [16, 12]"}));
  EXPECT_EQ(report["left_over"], json({"logit_bias []"}));
  EXPECT_EQ(report["not_finite"], json({{{"name", "ln_final.bias"}, {"numbers", 1}}}));
  const AppResult text = run_app("inspect", {"a"}, folder_);
  EXPECT_EQ(text.err, "warning: ln_final.bias holds 1 numbers that are NaN or infinite\n");

  // Once it is whole, it is loaded with the same warning.
  items.back() = {"visual.proj", DType::kF32, {16, 12}, numbers.back().data()};
  for (size_t i = 0; const auto& [name, weight] : weights.all()) {
    if (name == "visual.proj") items.back().data = numbers[i].data();
    ++i;
  }
  write_safetensors(folder_.path("a/open_clip_model.safetensors"), items, {});
  const AppResult loaded = convert({"a", "--to", "open_clip", "--out", "b"});
  EXPECT_EQ(loaded.status, 0);
  EXPECT_NE(loaded.err.find("warning: a: NaN or infinity in ln_final.bias\n"), std::string::npos)
      << loaded.err;
}

}  // namespace
}  // namespace clip
