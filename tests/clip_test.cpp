// The model as a whole: its gradient, and the computations that are left out because they change
// nothing.
#include "models/clip.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/random.h"
#include "models/training.h"
#include "tests/error_message.h"
#include "tests/gradient_check.h"
#include "tests/reference_values.h"
#include "tests/tiny_clip.h"

namespace clip {
namespace {

TEST(ClipModel, EveryParameterHasTheGradientThatCentralDifferencesShow) {
  ClipModel model(tiny_config(), cpu_backend(), DType::kF64);
  randomize(model.parameters);
  model.parameters.allocate_training_state();
  std::vector<Variable> variables;
  std::vector<std::string> names;
  for (const Parameter& parameter : model.parameters.parameters()) {
    variables.push_back(parameter.variable);
    names.push_back(parameter.name);
  }
  const std::string report =
      check_gradients([&] { return std::vector<Variable>{tiny_loss(model.clip, 0)}; }, variables,
                      names, {.tolerance = 1e-7, .elements = 12});
  EXPECT_EQ(report, "");
}

/// Features and gradients of a step, one way of computing the last block or the other.
std::vector<std::vector<double>> run_with(LastBlock last_block) {
  ClipModel model(tiny_config(), cpu_backend(), DType::kF64);
  model.clip.towers.last_block = last_block;
  randomize(model.parameters);
  model.parameters.allocate_training_state();
  std::vector<std::vector<double>> results;
  results.push_back(to_doubles(model.clip.encode_image(tiny_images(0, cpu_backend())).value()));
  results.push_back(
      to_doubles(model.clip.encode_text(pack_tokens(tiny_captions(0), cpu_backend())).value()));
  Tape tape;
  tape.backward(tiny_loss(model.clip, 0));
  for (const Parameter& parameter : model.parameters.parameters())
    results.push_back(to_doubles(parameter.variable.grad()));
  return results;
}

TEST(ClipModel, ALastBlockOfOneRowEqualsTheWholeBlock) {
  const auto one_row = run_with(LastBlock::kPooledRows), whole = run_with(LastBlock::kAllRows);
  ASSERT_EQ(one_row.size(), whole.size());
  for (size_t i = 0; i < whole.size(); ++i)
    for (size_t j = 0; j < whole[i].size(); ++j)
      EXPECT_NEAR(one_row[i][j], whole[i][j],
                  1e-12 * std::max(1.0, std::abs(whole[i][j])));  // rounding alone
}

TEST(ClipModel, FeaturesForProbesTimesTheProjectionAreTheEmbeddings) {
  ClipModel model(tiny_config(), cpu_backend(), DType::kF64);
  randomize(model.parameters);
  const Tensor images = tiny_images(0, cpu_backend());
  const Tensor features = model.clip.probe_features(images).value();
  EXPECT_EQ(features.width(), model.clip.config.vision.width);
  Tensor product =
      Tensor::empty(cpu_backend(), {kTinyPairs, model.clip.config.embed_dim}, DType::kF64);
  cpu_backend().matmul(product, features, Transpose::kNo,
                       std::get<VisionTransformer>(model.clip.visual).proj.value(), Transpose::kNo,
                       {});
  // Roundings of 1e-16 in sums of a few dozen products.
  expect_near(to_doubles(product), to_doubles(model.clip.encode_image(images).value()), 1e-13);
}

TEST(ClipModel, AResNetsFeaturesForProbesAreItsEmbeddings) {
  ClipModel model(tiny_resnet_config(), cpu_backend(), DType::kF64);
  randomize(model.parameters);
  const Tensor images = tiny_images(0, cpu_backend(), 64);
  EXPECT_EQ(to_doubles(model.clip.probe_features(images).value()),
            to_doubles(model.clip.encode_image(images).value()));
}

TEST(ClipModel, TokensAfterEndOfTextChangeNothingBeyondRounding) {
  ClipModel model(tiny_config(), cpu_backend(), DType::kF32);
  model.clip.towers.last_block =
      LastBlock::kAllRows;  // the pooled row need not be the last one here
  randomize(model.parameters);
  const auto captions = tiny_captions(0);
  auto padded = captions;
  for (auto& caption : padded)
    caption.resize(12, 0);  // filled up to the context length, as other trainers do
  PackedTokens with_padding = pack_tokens(padded, cpu_backend());
  std::vector<int32_t> ends;
  for (size_t i = 0; i < captions.size(); ++i)
    ends.push_back(static_cast<int32_t>(12 * i + captions[i].size()) - 1);
  with_padding.ends = Tensor::from<int32_t>(cpu_backend(), {kTinyPairs}, ends);
  const auto cut = to_doubles(model.clip.encode_text(pack_tokens(captions, cpu_backend())).value());
  const auto full = to_doubles(model.clip.encode_text(with_padding).value());
  ASSERT_EQ(cut.size(), full.size());
  // F32 products round by the number of their rows; features are of order one.
  for (size_t i = 0; i < cut.size(); ++i) EXPECT_NEAR(cut[i], full[i], 2e-6) << "at " << i;
}

TEST(ClipModel, ACaptionsFeatureDoesNotDependOnTheBatchAroundIt) {
  ClipModel model(tiny_config(), cpu_backend(), DType::kF64);
  randomize(model.parameters);
  const auto captions = tiny_captions(0);
  const auto together =
      to_doubles(model.clip.encode_text(pack_tokens(captions, cpu_backend())).value());
  for (size_t i = 0; i < captions.size(); ++i) {
    const auto alone =
        to_doubles(model.clip.encode_text(pack_tokens({captions[i]}, cpu_backend())).value());
    for (size_t j = 0; j < alone.size(); ++j)
      EXPECT_NEAR(alone[j], together[i * alone.size() + j], 1e-12);
  }
}

struct Moments {
  double mean, deviation;
};

Moments moments_of(const std::vector<double>& values) {
  double sum = 0, squares = 0;
  for (double value : values) sum += value;
  const double mean = sum / static_cast<double>(values.size());
  for (double value : values) squares += (value - mean) * (value - mean);
  return {mean, std::sqrt(squares / static_cast<double>(values.size()))};
}

/// What openai/CLIP's initialize_parameters and PyTorch's defaults give for width 512/768, 12
/// layers.
double expected_deviation(const std::string& name, double width, double layers) {
  const double uniform = 1 / std::sqrt(3.0);  // deviation of U(-1, 1)
  const bool text = !name.starts_with("visual.");
  if (name == "token_embedding.weight") return 0.02;
  if (name == "positional_embedding") return 0.01;
  if (name == "text_projection" || name == "visual.proj" || name == "visual.class_embedding" ||
      name == "visual.positional_embedding")
    return 1 / std::sqrt(width);
  if (name == "visual.conv1.weight") return uniform / std::sqrt(3.0 * 32 * 32);
  if (name.ends_with("in_proj_weight"))
    return text ? 1 / std::sqrt(width) : std::sqrt(6 / (4 * width)) * uniform;
  if (name.ends_with("out_proj.weight"))
    return text ? 1 / std::sqrt(width * 2 * layers) : uniform / std::sqrt(width);
  if (name.ends_with("c_fc.weight"))
    return text ? 1 / std::sqrt(2 * width) : uniform / std::sqrt(width);
  if (name.ends_with("c_proj.weight"))
    return text ? 1 / std::sqrt(width * 2 * layers) : uniform / std::sqrt(4 * width);
  if (name.ends_with("c_fc.bias")) return uniform / std::sqrt(width);
  if (name.ends_with("c_proj.bias")) return uniform / std::sqrt(4 * width);
  return 0;  // other biases, gains, logit_scale
}

TEST(Initialization, EveryTensorOfViTB32HasOpenAIsStandardDeviation) {
  ClipConfig
      config;  // ViT-B/32's sizes are the defaults; two layers of each tower tell as much as twelve
  config.vision.layers = config.text.layers = 2;
  ClipModel model(config, cpu_backend());
  initialize(model.parameters, config, 1);
  for (const Parameter& parameter : model.parameters.parameters()) {
    const auto values = to_doubles(parameter.variable.value());
    const double count = static_cast<double>(values.size());
    const double width = parameter.name.starts_with("visual.") ? 768 : 512;
    const double expected = expected_deviation(parameter.name, width, 2);
    const Moments moments = moments_of(values);
    // Five standard errors of a sample deviation.
    EXPECT_NEAR(moments.deviation, expected, 5 * expected / std::sqrt(2 * count)) << parameter.name;
    if (expected == 0) {
      const bool gain =
          parameter.name.find("ln_") != std::string::npos && parameter.name.ends_with("weight");
      const double constant =
          parameter.name == "logit_scale" ? std::log(1 / 0.07) : (gain ? 1.0 : 0.0);
      EXPECT_NEAR(moments.mean, constant, 1e-6) << parameter.name;
    } else {
      EXPECT_NEAR(moments.mean, 0, 5 * expected / std::sqrt(count)) << parameter.name;
    }
  }
}

TEST(ClipModel, ViTB32HasAsManyParametersAsOpenAIs) {
  Clip clip{ClipConfig{}};
  ParameterList list;
  clip.collect(list);
  EXPECT_EQ(list.count(), 151'277'313);
  EXPECT_EQ(list.parameters().size(), 302u);
}

TEST(ClipModel, RejectsPicturesOfAnotherSize) {
  ClipModel model(tiny_config(), cpu_backend());
  for (const Shape& shape : {Shape{2, 32, 32, 3}, {2, 24, 32, 3}, {2, 32, 24, 3}, {2, 24, 24, 4}}) {
    const Tensor images = Tensor::zeros(cpu_backend(), shape, DType::kU8);
    const std::string message = error_message([&] { model.clip.encode_image(images); });
    EXPECT_TRUE(says(message, "[encode_image]", "[N, 24, 24, 3]", concat(shape))) << message;
  }
}

}  // namespace
}  // namespace clip
