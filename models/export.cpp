#include "models/export.h"

#include <algorithm>
#include <filesystem>

#include "models/atomic_file.h"
#include "models/model_files.h"
#include "models/safetensors.h"
#include "models/torch_file.h"
#include "models/weight_names.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

bool is_wanted(const std::string& parameter, Towers towers) {
  const bool is_image = parameter.starts_with("visual.");
  if (towers == Towers::kBoth) return true;
  return is_image ? towers == Towers::kImage
                  : towers == Towers::kText && !parameter.starts_with("logit_");
}

SafetensorsItem item_of(const Parameter& parameter, const std::string& stored_as) {
  const Tensor& value = parameter.variable.value();
  SafetensorsItem item{.name = parameter.name, .dtype = DType::kF32, .shape = {}};
  for (int axis = 0; axis < value.rank(); ++axis) item.shape.push_back(value.size(axis));
  item.copy_to_host = [value](void* host) { value.copy_to_host(host); };
  item.stored_as = stored_as;
  return item;
}

// Some rows of a matrix or vector, or a matrix turned round.
SafetensorsItem part_of(const SafetensorsItem& whole, const NamedPart& part) {
  SafetensorsItem item = whole;
  item.name = part.name;
  if (part.parts == 1 && !part.transposed) return item;
  int64_t numel = 1;
  for (const int64_t size : whole.shape) numel *= size;
  const auto copy_whole = whole.copy_to_host;
  if (part.transposed) {
    std::swap(item.shape[0], item.shape[1]);
    item.copy_to_host = [copy_whole, numel, columns = whole.shape[1]](void* host) {
      std::vector<float> values(static_cast<size_t>(numel));
      copy_whole(values.data());
      auto* to = static_cast<float*>(host);
      const int64_t rows = numel / columns;
      for (int64_t i = 0; i < numel; ++i)
        to[i % columns * rows + i / columns] = values[static_cast<size_t>(i)];
    };
    return item;
  }
  const int64_t parts = static_cast<int64_t>(part.parts), count = numel / parts;
  item.shape[0] /= parts;
  item.copy_to_host = [copy_whole, numel, count,
                       first = static_cast<int64_t>(part.part) * count](void* host) {
    std::vector<float> values(static_cast<size_t>(numel));
    copy_whole(values.data());
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(first), count,
                static_cast<float*>(host));
  };
  return item;
}

std::vector<SafetensorsItem> items_of(const ClipModel& model, const ExportOptions& options) {
  std::vector<Parameter> all = model.parameters.parameters();
  const std::vector<Parameter>& buffers = model.parameters.buffers();
  all.insert(all.end(), buffers.begin(), buffers.end());
  std::vector<SafetensorsItem> items;
  for (const Parameter& parameter : all) {
    if (!is_wanted(parameter.name, options.towers)) continue;
    const SafetensorsItem whole = item_of(parameter, options.stored_as);
    if (options.layout != ModelLayout::kHuggingFace) {
      items.push_back(whole);
      continue;
    }
    for (const NamedPart& part : to_hugging_face(parameter.name))
      items.push_back(part_of(whole, part));
  }
  return items;
}

// The sizes that OpenAI's files keep beside the weights; their presence tells QuickGELU.
void write_openai(const std::string& path, const ClipModel& model, const ExportOptions& options) {
  const ClipConfig& config = model.clip.config;
  const std::vector<std::pair<const char*, int32_t>> sizes = {
      {"input_resolution", static_cast<int32_t>(config.vision.image_size)},
      {"context_length", static_cast<int32_t>(config.text.context_length)},
      {"vocab_size", static_cast<int32_t>(config.text.vocab_size)}};
  std::vector<SafetensorsItem> items = items_of(model, options);
  for (const auto& [name, value] : sizes)
    items.push_back({.name = name, .dtype = DType::kI32, .shape = {}, .data = &value});
  write_torch_file(path, items);
}

void check_is_openai(const ClipConfig& config) {
  constexpr int64_t kHeadWidth = 64;
  CLIP_CHECK(config.gelu == Gelu::kQuick,
             "OpenAI's code computes QuickGELU, this model exact GELU: it can be written for "
             "open_clip or Hugging Face");
  CLIP_CHECK(
      config.vision.head_width == kHeadWidth && config.text.width == kHeadWidth * config.text.heads,
      "OpenAI's code makes heads 64 wide, this model's are ", config.vision.head_width, " and ",
      config.text.width / config.text.heads,
      " wide: it can be written for open_clip or Hugging Face");
  CLIP_CHECK(config.vision.mlp_width() == 4 * config.vision.width &&
                 config.text.mlp_width() == 4 * config.text.width,
             "OpenAI's code makes MLPs four times as wide as the model, this model's are not: it "
             "can be written for open_clip or Hugging Face");
  Preprocess rules = config.vision.preprocess;
  rules.crop_rounding = Preprocess().crop_rounding;  // at most a pixel
  CLIP_CHECK(rules == Preprocess(),
             "OpenAI's code prepares pictures in one way, this model's are prepared in another: it "
             "can be written for open_clip or Hugging Face");
}

// A wrong path must not cost somebody's folder.
void check_place(const std::string& folder, bool overwrite) {
  std::error_code error;
  if (!fs::exists(folder, error)) return;
  CLIP_CHECK(overwrite, folder, " exists already; --overwrite replaces a model's folder");
  const bool is_model = fs::is_directory(folder, error) &&
                        (find_model_files(folder) || fs::exists(fs::path(folder) / "model.pt") ||
                         fs::is_empty(folder, error));
  CLIP_CHECK(is_model, folder, " is no model's folder, so it is not replaced");
}

}  // namespace

void export_model(const std::string& folder, const ClipModel& model, const Tokenizer* tokenizer,
                  const ExportOptions& options) {
  const ClipConfig& config = model.clip.config;
  CLIP_CHECK(
      config.loss() == LossKind::kSoftmax || options.layout == ModelLayout::kOpenClip ||
          options.towers != Towers::kBoth,
      "this model has the logit_bias of the sigmoid loss, for which OpenAI's code and Hugging "
      "Face's CLIPModel have no place: it can be written for open_clip");
  if (options.layout == ModelLayout::kOpenAi) check_is_openai(config);
  check_place(folder, options.overwrite);
  AtomicFolder result(folder);
  const auto place = [&](const char* name) {
    return (fs::path(result.temporary()) / name).string();
  };
  switch (options.layout) {
    case ModelLayout::kOpenClip:
      write_file(place("open_clip_config.json"), to_json(config));
      write_safetensors(place("open_clip_model.safetensors"), items_of(model, options),
                        {{"format", "pt"}});
      break;
    case ModelLayout::kHuggingFace:
      write_file(place("config.json"), to_hugging_face_json(config, options.towers));
      if (options.towers != Towers::kText)
        write_file(place("preprocessor_config.json"),
                   to_preprocessor_json(config.vision.preprocess, config.vision.image_size));
      write_safetensors(place("model.safetensors"), items_of(model, options), {{"format", "pt"}});
      break;
    case ModelLayout::kOpenAi:
      write_openai(place("model.pt"), model, options);
      break;
  }
  if (tokenizer != nullptr) tokenizer->save(place("tokenizer.json"));
  result.commit();
}

}  // namespace clip
