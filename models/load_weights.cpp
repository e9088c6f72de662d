// Reading models, whoever wrote them: the functions of checkpoint.h and weights.h that need no
// training state.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "models/atomic_file.h"
#include "models/checkpoint.h"
#include "models/model_files.h"
#include "models/strict_json.h"

namespace clip {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;

void check_fits(const Weight& weight, const Shape& shape) {
  CLIP_CHECK(fits(weight, shape), weight.file, ": tensor ", weight.name, " must have shape ",
             shown(sizes_of(shape)), ", has ", shown(weight.shape()));
  weight.check_float();
}

template <class T>
bool all_finite(const void* numbers, int64_t count) {
  // A sum of zeros is NaN as soon as one factor is NaN or infinite; unlike a test, it is vectorised.
  const T* values = static_cast<const T*>(numbers);
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += values[i] * T{0};
  return sum == 0;
}

// Reads one weight and tells whether all its numbers are finite.
bool read_one(const Weight& weight, Tensor tensor, std::vector<std::byte>& buffer) {
  const bool on_host = tensor.backend().device().kind == Device::Kind::kCpu;
  if (!on_host) buffer.resize(static_cast<size_t>(tensor.bytes()));
  void* const host = on_host ? tensor.raw() : buffer.data();
  weight.read(tensor.dtype(), host);
  if (!on_host) tensor.copy_from_host(host);
  return tensor.dtype() == DType::kF64 ? all_finite<double>(host, tensor.numel())
                                       : all_finite<float>(host, tensor.numel());
}

ModelFiles files_of(const std::string& checkpoint) {
  const auto files = find_model_files(checkpoint);
  CLIP_CHECK(files, checkpoint, " holds no weights: none of ", weight_file_names());
  return *files;
}

// What a user takes a model for must be what it is.
void check_named(const WeightChoice& choice, const ClipConfig& config, const std::string& origin) {
  ClipConfig named = preset_or_file(choice.model);
  if (choice.force_quick_gelu) named.gelu = Gelu::kQuick;
  named.text.vocab_size = config.text.vocab_size;  // that of captions may have fewer ids
  if (same_architecture(named, config)) return;
  named.gelu = config.gelu;
  const bool same_sizes = same_architecture(named, config);
  throw UsageError(concat("--model ", choice.model, " is not the model that ", origin, " describes",
                          same_sizes ? ": one computes QuickGELU, the other exact GELU" : "",
                          "; without --model the file decides"));
}

// transformers looks into processor_config.json first.
void read_preprocessing(const ModelFiles& files, VisionConfig& vision) {
  if (!files.processor.empty()) {
    const auto rules = preprocess_from_processor(read_file(files.processor, kMaxConfigBytes),
                                                 files.processor, vision.image_size);
    if (rules) return void(vision.preprocess = *rules);
  }
  if (!files.preprocessor.empty())
    vision.preprocess = preprocess_from_hugging_face(read_file(files.preprocessor, kMaxConfigBytes),
                                                     files.preprocessor, vision.image_size);
}

}  // namespace

bool fits(const Weight& weight, const Shape& shape) {
  const std::vector<int64_t> stored = weight.shape();
  return stored == sizes_of(shape) || (shape.rank() == 0 && stored == std::vector<int64_t>{1});
}

std::vector<std::string> read_weights(const Weights& weights,
                                      const std::vector<WeightTarget>& targets) {
  // Everything is checked before anything is read, so that a wrong file changes nothing.
  std::set<std::string> names;
  for (const WeightTarget& target : targets) {
    check_fits(weights.at(target.name), target.tensor.shape());
    names.insert(target.name);
  }
  for (const auto& [name, weight] : weights.all())
    CLIP_CHECK(names.contains(name), weight.file, ": tensor ", shown(weight.name), " of shape ",
               shown(weight.shape()), " has no place in this model");
  std::vector<std::string> not_finite;
  std::vector<std::byte> buffer;
  for (const WeightTarget& target : targets)
    if (!read_one(weights.at(target.name), target.tensor, buffer))
      not_finite.push_back(target.name);
  return not_finite;
}

ClipConfig load_config(const std::string& checkpoint, const WeightChoice& choice) {
  const ModelFiles files = files_of(checkpoint);
  if (files.layout == ModelFiles::Layout::kWeightsAlone) {
    CLIP_CHECK(files.weights == checkpoint || !choice.model.empty(), files.missing_config,
               " is missing; --model NAME says which model ", files.weights, " holds");
    return infer_config(Weights(files.weights), choice);
  }
  const std::string text = read_file(files.config, kMaxConfigBytes);
  const bool is_open_clip = files.layout == ModelFiles::Layout::kOpenClip;
  ClipConfig config = is_open_clip ? config_from_json(text, files.config)
                                   : config_from_hugging_face(text, files.config);
  if (!is_open_clip) read_preprocessing(files, config.vision);
  if (choice.force_quick_gelu) config.gelu = Gelu::kQuick;
  if (!choice.model.empty()) check_named(choice, config, files.config);
  return config;
}

Tokenizer load_tokenizer(const std::string& checkpoint) {
  const auto files = find_model_files(checkpoint);
  CLIP_CHECK(files && !files->tokenizer.empty(), checkpoint,
             " holds no tokenizer, nor does its folder: neither tokenizer.json nor merges.txt nor "
             "bpe_simple_vocab_16e6.txt.gz; --tokenizer FILE gives one, --bpe FILE CLIP's own");
  return Tokenizer::load(files->tokenizer);
}

std::vector<std::string> load_parameters(const std::string& checkpoint, ParameterList& parameters) {
  std::vector<WeightTarget> targets;
  for (const Parameter& parameter : parameters.parameters())
    targets.push_back({parameter.name, ParameterList::view(parameters.values(), parameter)});
  for (const Parameter& buffer : parameters.buffers())
    targets.push_back({buffer.name, ParameterList::view(parameters.buffer_values(), buffer)});
  auto not_finite = read_weights(Weights(files_of(checkpoint).weights), targets);
  parameters.round_values();
  return not_finite;
}

}  // namespace clip
