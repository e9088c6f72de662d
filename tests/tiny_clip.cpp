#include "tests/tiny_clip.h"

#include "engine/random.h"

namespace clip {
namespace {

/// The batch's random numbers, as the script draws them: first the pixels, then the captions.
Random batch_random(int64_t step) { return {2, random_stream(concat("batch ", step))}; }

}  // namespace

ClipConfig tiny_config(Gelu gelu) {
  ClipConfig config;
  config.embed_dim = 24;
  config.gelu = gelu;
  config.vision = {.image_size = 24, .patch_size = 8, .width = 48, .layers = 2, .head_width = 16};
  config.text = {.context_length = 12, .vocab_size = 64, .width = 32, .heads = 2, .layers = 2};
  return config;
}

void randomize(ParameterList& parameters) {
  for (const Parameter& parameter : parameters.parameters()) {
    const std::string& name = parameter.name;
    const bool gain = name.find("ln_") != std::string::npos && name.ends_with("weight");
    const double low = name == "logit_scale" ? 1.0 : (gain ? 0.5 : -0.3);
    const double high = name == "logit_scale" ? 2.0 : (gain ? 1.5 : 0.3);
    Random random(1, random_stream(name));
    Tensor value = ParameterList::view(parameters.values(), parameter);
    std::vector<double> numbers(static_cast<size_t>(value.numel()));
    for (double& number : numbers) number = random.uniform(low, high);
    value.backend().convert(value, Tensor::from<double>(value.backend(), value.shape(), numbers));
  }
  parameters.round_values();
}

Tensor tiny_images(int64_t step, Backend& backend) {
  Random random = batch_random(step);
  const Shape shape = {kTinyPairs, 24, 24, 3};
  std::vector<uint8_t> pixels(static_cast<size_t>(shape.numel()));
  for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random.below(256));
  return Tensor::from<uint8_t>(backend, shape, pixels);
}

std::vector<std::vector<int32_t>> tiny_captions(int64_t step) {
  Random random = batch_random(step);
  random.skip_to(2 * static_cast<uint64_t>(
                         Shape{kTinyPairs, 24, 24, 3}.numel()));  // two words a uniform number
  std::vector<std::vector<int32_t>> captions;
  for (int64_t row = 0; row < kTinyPairs; ++row) {
    captions.push_back({62});
    const int64_t words = random.below(11);
    for (int64_t i = 0; i < words; ++i)
      captions.back().push_back(static_cast<int32_t>(random.below(62)));
    captions.back().push_back(63);
  }
  return captions;
}

std::vector<double> to_doubles(const Tensor& tensor) {
  if (tensor.dtype() == DType::kF64) return tensor.to_vector<double>();
  Tensor wide = Tensor::empty(tensor.backend(), tensor.shape(), DType::kF64);
  tensor.backend().convert(wide, tensor);
  return wide.to_vector<double>();
}

Variable tiny_loss(const Clip& clip, int64_t step) {
  Backend& backend = clip.logit_scale.backend();
  const auto comm = make_single_communicator();
  const Batch batch{tiny_images(step, backend), pack_tokens(tiny_captions(step), backend)};
  return contrast(clip, batch, *comm).loss;
}

std::vector<StepMetrics> tiny_training(ClipModel& model) {
  randomize(model.parameters);
  Backend& backend = model.clip.logit_scale.backend();
  AdamW optimizer(model.parameters, {.max_norm = 1.0});
  const LearningRate lr{.lr = 3e-3, .warmup_steps = 5, .total_steps = 20};
  const auto comm = make_single_communicator();
  std::vector<StepMetrics> steps;
  for (int64_t step = 0; step < 20; ++step) {
    const Batch batch{tiny_images(step, backend), pack_tokens(tiny_captions(step), backend)};
    steps.push_back(train_step(model, optimizer, {batch}, lr.at(step), *comm));
  }
  return steps;
}

}  // namespace clip
