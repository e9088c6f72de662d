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

ClipConfig tiny_resnet_config() {
  ClipConfig config = tiny_config();
  config.vision = {.image_size = 64, .width = 4, .head_width = 16, .stages = {2, 1, 1, 1}};
  return config;
}

namespace {

/// value = uniform numbers of [low, high) from `name`.
void draw(Tensor value, const std::string& name, double low, double high) {
  Random random(1, random_stream(name));
  std::vector<double> numbers(static_cast<size_t>(value.numel()));
  for (double& number : numbers) number = random.uniform(low, high);
  value.backend().convert(value, Tensor::from<double>(value.backend(), value.shape(), numbers));
}

}  // namespace

void randomize(ParameterList& parameters) {
  for (const Parameter& parameter : parameters.parameters()) {
    const std::string& name = parameter.name;
    const bool gain =
        name.ends_with("gamma") || (parameter.variable.rank() == 1 && name.ends_with("weight"));
    const double low = name == "logit_scale" ? 1.0 : (gain ? 0.5 : -0.3);
    const double high = name == "logit_scale" ? 2.0 : (gain ? 1.5 : 0.3);
    draw(ParameterList::view(parameters.values(), parameter), name, low, high);
  }
  for (const Parameter& buffer : parameters.buffers()) {
    const Tensor value = ParameterList::view(parameters.buffer_values(), buffer);
    if (buffer.name.ends_with("running_mean")) draw(value, buffer.name, -0.3, 0.3);
    if (buffer.name.ends_with("running_var")) draw(value, buffer.name, 0.5, 1.5);
  }
  parameters.round_values();
}

Tensor tiny_images(int64_t step, Backend& backend, int64_t size) {
  Random random = batch_random(step);
  const Shape shape = {kTinyPairs, size, size, 3};
  std::vector<uint8_t> pixels(static_cast<size_t>(shape.numel()));
  for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random.below(256));
  return Tensor::from<uint8_t>(backend, shape, pixels);
}

std::vector<std::vector<int32_t>> tiny_captions(int64_t step, int64_t size) {
  Random random = batch_random(step);
  random.skip_to(2 * static_cast<uint64_t>(kTinyPairs * size * size * 3));  // two words a number
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

Variable tiny_loss(const Clip& clip, int64_t step) {
  Backend& backend = clip.logit_scale.backend();
  static const auto comm = make_single_communicator();  // backward of a BatchNorm needs it
  const int64_t size = clip.config.vision.image_size;
  const Batch batch{tiny_images(step, backend, size),
                    pack_tokens(tiny_captions(step, size), backend)};
  return contrast(clip, batch, *comm).loss;
}

std::vector<StepMetrics> tiny_training(ClipModel& model) {
  randomize(model.parameters);
  Backend& backend = model.clip.logit_scale.backend();
  AdamW optimizer(model.parameters, {.max_norm = 1.0});
  const LearningRate lr{.lr = 3e-3, .warmup_steps = 5, .total_steps = 20};
  const auto comm = make_single_communicator();
  std::vector<StepMetrics> steps;
  const int64_t size = model.clip.config.vision.image_size;
  for (int64_t step = 0; step < 20; ++step) {
    const Batch batch{tiny_images(step, backend, size),
                      pack_tokens(tiny_captions(step, size), backend)};
    steps.push_back(train_step(model, optimizer, {batch}, lr.at(step), *comm));
  }
  return steps;
}

}  // namespace clip
