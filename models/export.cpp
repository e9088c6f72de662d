#include "models/export.h"

#include <filesystem>

#include "models/atomic_file.h"
#include "models/model_files.h"
#include "models/safetensors.h"
#include "models/torch_file.h"
#include "models/weight_names.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

// A parameter as rows of itself, or turned round.
SafetensorsItem part_of(const Tensor& value, const NamedPart& part) {
  if (!part.transposed) {
    if (part.parts == 1) return item_of(part.name, value);
    const int64_t rows = value.size(0) / static_cast<int64_t>(part.parts),
                  first = static_cast<int64_t>(part.part) * rows;
    return item_of(part.name, value.slice(first, first + rows));
  }
  const int64_t rows = value.size(0), columns = value.size(1);
  return {.name = part.name,
          .dtype = value.dtype(),
          .shape = {columns, rows},
          .copy_to_host = [=](void* host) {
            const std::vector<float> values = value.to_vector<float>();
            auto* to = static_cast<float*>(host);
            for (int64_t i = 0; i < rows * columns; ++i)
              to[i % columns * rows + i / columns] = values[static_cast<size_t>(i)];
          }};
}

std::vector<SafetensorsItem> items_of(const ClipModel& model, const ExportOptions& options) {
  const LockedTowers one = {.image = options.towers == Towers::kImage,
                            .text = options.towers == Towers::kText};
  std::vector<SafetensorsItem> items;
  const auto add = [&](const Parameter& parameter, const std::string& stored_as) {
    if (options.towers != Towers::kBoth && !is_locked(parameter.name, one)) return;
    const bool renamed = options.layout == ModelLayout::kHuggingFace;
    for (const NamedPart& part : renamed
                                     ? to_hugging_face(parameter.name)
                                     : std::vector<NamedPart>{{parameter.name, parameter.name}}) {
      items.push_back(part_of(parameter.variable.value(), part));
      items.back().stored_as = stored_as;
    }
  };
  for (const Parameter& parameter : model.parameters.parameters())
    add(parameter, options.stored_as);
  // Running statistics stay F32, as every library has them beside rounded weights.
  for (const Parameter& buffer : model.parameters.buffers()) add(buffer, "");
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

// What the files of a layout cannot say would be computed otherwise, or lost.
void check_layout(const ClipConfig& config, const ExportOptions& options) {
  const bool is_openai = options.layout == ModelLayout::kOpenAi;
  if (options.layout == ModelLayout::kOpenClip) return;
  if (is_openai && options.towers != Towers::kBoth)
    throw UsageError(
        "OpenAI's code reads both towers or none: one alone can be written for "
        "open_clip or Hugging Face");
  CLIP_CHECK(
      config.loss() == LossKind::kSoftmax || options.towers != Towers::kBoth,
      "this model has the logit_bias of the sigmoid loss, for which OpenAI's code and Hugging "
      "Face's CLIPModel have no place: it can be written for open_clip");
  const bool is_image =
                 options.towers != Towers::kText && !(is_openai && config.vision.is_resnet()),
             is_text = options.towers != Towers::kImage;
  for (const std::string& what :
       {is_image ? variation_of(config.vision) : "", is_text ? variation_of(config.text) : ""})
    CLIP_CHECK(what.empty(), "this model has ", what, ", which ",
               is_openai ? "OpenAI's code" : "Hugging Face's CLIPModel",
               " does not know: it can be written for open_clip");
  if (is_openai) check_is_openai(config);
}

// A wrong path must not cost somebody's folder.
void check_place(const std::string& folder, bool overwrite) {
  std::error_code error;
  if (!fs::exists(folder, error)) return;
  CLIP_CHECK(overwrite, folder, " exists already; --overwrite replaces a model's folder");
  CLIP_CHECK(is_replaceable(folder), folder, " is no model's folder, so it is not replaced");
}

}  // namespace

void export_model(const std::string& folder, const ClipModel& model, const Tokenizer* tokenizer,
                  const ExportOptions& options) {
  const ClipConfig& config = model.clip.config;
  check_layout(config, options);
  check_place(folder, options.overwrite);
  write_folder(folder, [&](const std::string& temporary) {
    const auto place = [&](const char* name) { return (fs::path(temporary) / name).string(); };
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
        write_openai(place(kOpenAiFile), model, options);
        break;
    }
    if (tokenizer != nullptr) tokenizer->save(place("tokenizer.json"));
  });
}

}  // namespace clip
