// Image towers other than the plain ViT, against open_clip's values in
// reference/architecture_reference.json.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "models/training.h"
#include "tests/reference_values.h"
#include "tests/tiny_clip.h"

namespace clip {
namespace {

const nlohmann::json& reference(const char* plan) {
  static const nlohmann::json values = reference_values("architecture_reference.json");
  return values[plan];
}

ClipConfig layer_scale_config() {
  ClipConfig config = tiny_config();
  config.vision.ls_init_value = config.text.ls_init_value = 0.1;
  return config;
}

ClipConfig average_config() {
  ClipConfig config = tiny_config();
  config.vision.pool = Pool::kAverage;
  return config;
}

ClipConfig average_then_norm_config() {
  ClipConfig config = average_config();
  config.vision.final_ln_after_pool = config.vision.no_ln_pre = true;
  return config;
}

/// A model in F64 that is ready to train.
ClipModel random_model(const ClipConfig& config, Backend& backend = cpu_backend()) {
  ClipModel model(config, backend, DType::kF64);
  randomize(model.parameters);
  model.parameters.allocate_training_state();
  return model;
}

void expect_features(const ClipConfig& config, const char* plan, DType dtype, double tolerance) {
  ClipModel model(config, cpu_backend(), dtype);
  randomize(model.parameters);
  const Tensor images = tiny_images(0, cpu_backend(), config.vision.image_size);
  expect_near(to_doubles(model.clip.encode_image(images).value()),
              reference(plan)["image_features"], tolerance);
  if (!reference(plan).contains("text_features")) return;
  expect_near(
      to_doubles(model.clip.encode_text(pack_tokens(tiny_captions(0), cpu_backend())).value()),
      reference(plan)["text_features"], tolerance);
}

struct Plan {
  const char* name;
  ClipConfig config;
};

class EveryPlan : public testing::TestWithParam<Plan> {};

TEST_P(EveryPlan, HasOpenClipsFeatures) {
  const auto& [name, config] = GetParam();
  expect_features(config, name, DType::kF64, 1e-12);
  expect_features(config, name, DType::kF32, 2e-5);  // features add thousands of roundings of 6e-8
}

TEST_P(EveryPlan, HasOpenClipsGradientsTo1e9) {
  const auto& [name, config] = GetParam();
  ClipModel model = random_model(config);
  Tape tape;
  const Variable loss = tiny_loss(model.clip, 0);
  EXPECT_NEAR(loss.value().item(), reference(name)["loss"].get<double>(), 1e-12);
  tape.backward(loss);
  expect_gradients(model.parameters, reference(name)["gradients"], 1e-9);
}

TEST_P(EveryPlan, RecomputedActivationsGiveTheSameBits) {
  const auto run = [](Activations activations) {
    ClipModel model = random_model(GetParam().config);
    model.clip.towers.activations = activations;
    {
      Tape tape;
      tape.backward(tiny_loss(model.clip, 0));
    }
    model.parameters.settle_gradients();
    return std::pair(to_doubles(model.parameters.gradients()),
                     to_doubles(model.parameters.buffer_values()));
  };
  EXPECT_EQ(run(Activations::kKept), run(Activations::kRecomputed));
}

std::string plan_name(const testing::TestParamInfo<Plan>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Plans, EveryPlan,
                         testing::Values(Plan{"resnet", tiny_resnet_config()},
                                         Plan{"layer_scale", layer_scale_config()},
                                         Plan{"average", average_config()},
                                         Plan{"average_then_norm", average_then_norm_config()}),
                         plan_name);

TEST(ModifiedResNet, TwentyStepsAndRunningStatisticsInF64EqualPyTorchsTo1e9) {
  ClipModel model(tiny_resnet_config(), cpu_backend(), DType::kF64);
  expect_training(model, reference("resnet")["training"], 1e-9);
  const auto& buffers = reference("resnet")["buffers"];
  EXPECT_EQ(buffers.size(), model.parameters.buffers().size());
  for (const Parameter& buffer : model.parameters.buffers())
    expect_signature(buffer.name, to_doubles(buffer.variable.value()), buffers[buffer.name], 1e-9);
  const Tensor images = tiny_images(0, cpu_backend(), 64);
  expect_near(to_doubles(model.clip.encode_image(images).value()),
              reference("resnet")["trained_image_features"], 1e-8);  // after 20 updates to 1e-9
}

TEST(ModifiedResNet, APicturesFeatureInEvaluationDoesNotDependOnTheBatchAroundIt) {
  ClipModel model = random_model(tiny_resnet_config());
  const Tensor images = tiny_images(0, cpu_backend(), 64);
  const auto together = to_doubles(model.clip.encode_image(images).value());
  for (int64_t i = 0; i < kTinyPairs; ++i) {
    const auto alone = to_doubles(model.clip.encode_image(images.slice(i, i + 1)).value());
    for (size_t j = 0; j < alone.size(); ++j)
      EXPECT_NEAR(alone[j], together[static_cast<size_t>(i) * alone.size() + j], 1e-12);
  }
}

TEST(ModifiedResNet, ASkippedStepLeavesTheRunningStatisticsAsTheyWere) {
  ClipModel model(tiny_resnet_config(), cpu_backend());
  randomize(model.parameters);
  AdamW optimizer(model.parameters, {});
  const float nan = std::nanf("");
  ParameterList::view(model.parameters.values(), model.parameters.parameters()[0])
      .slice(0, 1)
      .copy_from_host(std::vector<float>(27, nan).data());  // the first convolution
  const auto before = to_doubles(model.parameters.buffer_values());
  const Batch batch{tiny_images(0, cpu_backend(), 64),
                    pack_tokens(tiny_captions(0), cpu_backend())};
  const auto comm = make_single_communicator();
  EXPECT_TRUE(train_step(model, optimizer, {batch}, 1e-3, *comm).skipped());
  EXPECT_EQ(to_doubles(model.parameters.buffer_values()), before);
}

TEST(ModifiedResNet, ALockedOneGoesByItsRunningStatisticsAndLeavesThem) {
  ClipModel model(tiny_resnet_config(), cpu_backend(), DType::kF64, {.image = true});
  randomize(model.parameters);
  AdamW optimizer(model.parameters, {});
  const auto before = to_doubles(model.parameters.buffer_values());
  std::vector<Batch> batches;
  for (int64_t step = 0; step < 2; ++step)
    batches.push_back({tiny_images(step, cpu_backend(), 64),
                       pack_tokens(tiny_captions(step, 64), cpu_backend())});
  const auto comm = make_single_communicator();
  const StepMetrics metrics = train_step(model, optimizer, batches, 1e-3, *comm);
  EXPECT_EQ(to_doubles(model.parameters.buffer_values()), before);
  const Variable evaluated = l2_normalize(model.clip.encode_image(batches[1].images));
  EXPECT_EQ(to_doubles(metrics.image_features.slice(kTinyPairs, 2 * kTinyPairs)),
            to_doubles(evaluated.value()));
}

TEST(ModifiedResNet, HasNoPatchesToDrop) {
  const ClipModel model = random_model(tiny_resnet_config());
  const Tensor images = tiny_images(0, cpu_backend(), 64);
  EXPECT_THROW(model.clip.encode_image(images, Tensor::from<int32_t>(cpu_backend(), {1}, {0})),
               Error);
}

TEST(ModifiedResNet, HasAsManyParametersAsOpenAIs) {
  const std::map<std::string, int64_t> expected = {{"RN50-quickgelu", 102'007'137},
                                                   {"RN101-quickgelu", 119'688'033},
                                                   {"RN50x4-quickgelu", 178'300'601},
                                                   {"RN50x16-quickgelu", 290'979'217},
                                                   {"RN50x64-quickgelu", 623'258'305}};
  for (const auto& [name, count] : expected) {
    Clip clip(preset(name));  // without memory
    ParameterList list;
    clip.collect(list);
    EXPECT_EQ(list.count(), count) << name;
  }
}

double deviation_of(const Tensor& values) {
  double sum = 0, squares = 0;
  const auto numbers = to_doubles(values);
  for (const double number : numbers) sum += number, squares += number * number;
  const auto count = static_cast<double>(numbers.size());
  return std::sqrt(squares / count - sum * sum / (count * count));
}

TEST(Initialization, AResNetStartsAsOpenAIs) {
  ClipConfig config = tiny_resnet_config();
  config.vision.width = 16;
  ClipModel model(config, cpu_backend());
  initialize(model.parameters, config, 1);
  const auto value = [&](const std::string& name) {
    return model.parameters.find("visual." + name).value();
  };
  const auto all = [&](const std::string& name, double expected) {
    for (const double number : to_doubles(value(name))) EXPECT_EQ(number, expected) << name;
  };
  all("bn3.weight", 1);
  all("layer1.0.bn2.weight", 1);
  all("layer1.0.bn3.weight", 0);
  all("layer4.0.bn3.weight", 0);
  all("layer2.0.downsample.1.weight", 1);
  all("layer2.0.bn1.bias", 0);
  // U(-b, b) has deviation b / sqrt(3); tolerance: five standard errors of a sample deviation.
  const auto expect_deviation = [&](const std::string& name, double expected) {
    const auto count = static_cast<double>(value(name).numel());
    EXPECT_NEAR(deviation_of(value(name)), expected, 5 * expected / std::sqrt(2 * count)) << name;
  };
  expect_deviation("conv2.weight", 1 / std::sqrt(3 * 8 * 9.0));
  expect_deviation("layer3.0.conv2.weight", 1 / std::sqrt(3 * 64 * 9.0));
  expect_deviation("layer3.0.downsample.0.weight", 1 / std::sqrt(3 * 128.0));
  for (const char* name : {"q_proj", "k_proj", "v_proj", "c_proj"}) {
    expect_deviation(concat("attnpool.", name, ".weight"), 1 / std::sqrt(512.0));
    expect_deviation(concat("attnpool.", name, ".bias"), 1 / std::sqrt(3 * 512.0));
  }
  expect_deviation("attnpool.positional_embedding", 1 / std::sqrt(512.0));
  for (const Parameter& buffer : model.parameters.buffers())
    for (const double number : to_doubles(buffer.variable.value()))
      EXPECT_EQ(number, buffer.name.ends_with("running_var") ? 1 : 0) << buffer.name;
}

TEST(Initialization, LayerScaleStartsAtItsConfiguredValue) {
  ClipModel model(layer_scale_config(), cpu_backend(), DType::kF64);
  initialize(model.parameters, model.clip.config, 1);
  for (const char* name :
       {"visual.transformer.resblocks.1.ls_1.gamma", "transformer.resblocks.0.ls_2.gamma"})
    for (const double number : to_doubles(model.parameters.find(name).value()))
      EXPECT_EQ(number, 0.1) << name;
}

TEST(ModifiedResNet, RefusesToTrainOnASinglePlaceOfASinglePicture) {
  ClipConfig config = tiny_resnet_config();
  config.vision.image_size = 32;  // the last map has one place
  ClipModel model = random_model(config);
  const auto comm = make_single_communicator();
  TowerOptions options;
  options.batch_norm = {comm.get(), BatchNormMode::Running::kMoved};
  EXPECT_THROW(model.clip.encode_image(Tensor::zeros(cpu_backend(), {1, 32, 32, 3}, DType::kU8), {},
                                       options),
               Error);
}

}  // namespace
}  // namespace clip
