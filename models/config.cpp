#include "models/config.h"

#include <algorithm>
#include <cmath>

#include "engine/check.h"
#include "models/atomic_file.h"

namespace clip {
namespace {

void check_size(const char* field, int64_t value, int64_t largest) {
  CLIP_CHECK(value >= 1 && value <= largest, field, " must be 1 to ", largest, ", got ", value);
}

void check_ratio(const char* field, double value) {
  CLIP_CHECK(value > 0 && value <= 64, field, " must be above 0 and at most 64, got ", value);
}

// The limits keep every product of sizes far inside int64.
constexpr int64_t kMaxWidth = 1 << 16;
constexpr int64_t kMaxLayers = 1 << 10;
constexpr int64_t kMaxImageSize = 1 << 14;
constexpr int64_t kMaxContext = 1 << 16;
constexpr int64_t kMaxVocabulary = 1 << 24;

}  // namespace

int64_t VisionConfig::mlp_width() const {
  return static_cast<int64_t>(static_cast<double>(width) * mlp_ratio);
}

int64_t VisionConfig::patches() const {
  const int64_t side = image_size / (is_resnet() ? kResNetStride : patch_size);
  return side * side;
}

int64_t TextConfig::mlp_width() const {
  return static_cast<int64_t>(static_cast<double>(width) * mlp_ratio);
}

double mlp_ratio_of(int64_t hidden, int64_t width) {
  const double quotient = static_cast<double>(hidden) / static_cast<double>(width);
  // The product may round to just below the whole number, which is then cut.
  const bool is_short = static_cast<int64_t>(static_cast<double>(width) * quotient) < hidden;
  return is_short ? std::nextafter(quotient, 2 * quotient) : quotient;
}

namespace {

void check_layer_scale(const char* field, double value) {
  CLIP_CHECK(value >= 0 && value <= 1, field, " must be from 0 (none) to 1, got ", value);
}

void check_vit(const VisionConfig& vision) {
  check_size("vision_cfg.image_size", vision.image_size, kMaxImageSize);
  check_size("vision_cfg.patch_size", vision.patch_size, vision.image_size);
  check_size("vision_cfg.width", vision.width, kMaxWidth);
  check_size("vision_cfg.layers", vision.layers, kMaxLayers);
  check_size("vision_cfg.head_width", vision.head_width, vision.width);
  check_ratio("vision_cfg.mlp_ratio", vision.mlp_ratio);
  CLIP_CHECK(vision.image_size % vision.patch_size == 0, "vision_cfg.image_size ",
             vision.image_size, " is no multiple of vision_cfg.patch_size ", vision.patch_size);
  CLIP_CHECK(vision.width % vision.head_width == 0, "vision_cfg.width ", vision.width,
             " is no multiple of vision_cfg.head_width ", vision.head_width);
  CLIP_CHECK(vision.mlp_width() >= 1, "vision_cfg.mlp_ratio ", vision.mlp_ratio,
             " leaves no hidden unit at width ", vision.width);
  check_layer_scale("vision_cfg.ls_init_value", vision.ls_init_value);
}

void check_resnet(const VisionConfig& vision) {
  check_size("vision_cfg.image_size", vision.image_size, kMaxImageSize);
  check_size("vision_cfg.width", vision.width, kMaxWidth / 32);
  check_size("vision_cfg.head_width", vision.head_width, vision.feature_width());
  CLIP_CHECK(vision.stages.size() == 4, "vision_cfg.layers must be four numbers for a ResNet, got ",
             vision.stages.size());
  for (const int64_t blocks : vision.stages) check_size("vision_cfg.layers", blocks, kMaxLayers);
  CLIP_CHECK(vision.image_size % VisionConfig::kResNetStride == 0, "vision_cfg.image_size ",
             vision.image_size, " is no multiple of ", VisionConfig::kResNetStride,
             ", as a ResNet needs");
  CLIP_CHECK(vision.width % 2 == 0, "vision_cfg.width ", vision.width,
             " must be even: a ResNet's stem has half of it");
  CLIP_CHECK(vision.feature_width() % vision.head_width == 0, "32 times vision_cfg.width ",
             vision.width, " is no multiple of vision_cfg.head_width ", vision.head_width);
}

}  // namespace

void ClipConfig::check() const {
  check_size("embed_dim", embed_dim, kMaxWidth);
  vision.is_resnet() ? check_resnet(vision) : check_vit(vision);
  check_size("text_cfg.context_length", text.context_length, kMaxContext);
  check_size("text_cfg.vocab_size", text.vocab_size, kMaxVocabulary);
  check_size("text_cfg.width", text.width, kMaxWidth);
  check_size("text_cfg.heads", text.heads, text.width);
  check_size("text_cfg.layers", text.layers, kMaxLayers);
  check_ratio("text_cfg.mlp_ratio", text.mlp_ratio);
  check_layer_scale("text_cfg.ls_init_value", text.ls_init_value);
  CLIP_CHECK(text.context_length >= 2,
             "text_cfg.context_length must be at least 2 (start- and end-of-text), got ",
             text.context_length);
  CLIP_CHECK(text.width % text.heads == 0, "text_cfg.width ", text.width,
             " is no multiple of text_cfg.heads ", text.heads);
  CLIP_CHECK(text.mlp_width() >= 1, "text_cfg.mlp_ratio ", text.mlp_ratio,
             " leaves no hidden unit at width ", text.width);
}

std::string variation_of(const VisionConfig& vision) {
  if (vision.is_resnet()) return "a ResNet";
  if (vision.pool == Pool::kAverage) return "average pooling";
  if (vision.no_ln_pre) return "no ln_pre";
  return vision.ls_init_value > 0 ? "LayerScale" : "";
}

std::string variation_of(const TextConfig& text) {
  return text.ls_init_value > 0 ? "LayerScale" : "";
}

namespace {

struct Preset {
  const char* name;
  int64_t embed_dim;
  Gelu gelu;
  VisionConfig vision;
  TextConfig text;
};

// Text towers read 77 tokens of CLIP's vocabulary of 49408 where nothing else is said.
const std::vector<Preset>& presets() {
  constexpr Gelu kQuick = Gelu::kQuick, kErf = Gelu::kErf;
  const auto vision = [](int64_t image, int64_t patch, int64_t width, int64_t layers,
                         int64_t head_width = 64, double mlp_ratio = 4.0) {
    return VisionConfig{.image_size = image,
                        .patch_size = patch,
                        .width = width,
                        .layers = layers,
                        .head_width = head_width,
                        .mlp_ratio = mlp_ratio};
  };
  const auto resnet = [](int64_t image, int64_t width, const std::vector<int64_t>& stages) {
    return VisionConfig{.image_size = image, .width = width, .stages = stages};
  };
  const auto layer_scaled = [](VisionConfig config, double first) {
    config.ls_init_value = first;
    return config;
  };
  const auto text = [](int64_t width, int64_t heads, int64_t layers) {
    return TextConfig{.width = width, .heads = heads, .layers = layers};
  };
  static const std::vector<Preset> table = {
      {"emoji", 128, kQuick, vision(32, 4, 128, 2, 32), {16, 1024, 128, 4, 2, 4.0}},
      {"tiny", 256, kQuick, vision(64, 8, 192, 6), {32, 8192, 192, 3, 6, 4.0}},
      {"ViT-S-32-alt", 256, kErf, vision(224, 32, 384, 12), text(256, 4, 10)},
      {"ViT-S-16-alt", 256, kErf, vision(224, 16, 384, 12), text(256, 4, 10)},
      {"ViT-S-32", 384, kErf, vision(224, 32, 384, 12), text(384, 6, 12)},
      {"ViT-S-16", 384, kErf, vision(224, 16, 384, 12), text(384, 6, 12)},
      {"ViT-M-32-alt", 384, kErf, vision(224, 32, 512, 12), text(384, 6, 12)},
      {"ViT-M-16-alt", 384, kErf, layer_scaled(vision(224, 16, 512, 12), 1e-4), text(384, 6, 12)},
      {"ViT-M-32", 512, kErf, vision(224, 32, 512, 12), text(512, 8, 12)},
      {"ViT-M-16", 512, kErf, vision(224, 16, 512, 12), text(512, 8, 12)},
      {"RN50", 1024, kErf, resnet(224, 64, {3, 4, 6, 3}), text(512, 8, 12)},
      {"RN50-quickgelu", 1024, kQuick, resnet(224, 64, {3, 4, 6, 3}), text(512, 8, 12)},
      {"RN101", 512, kErf, resnet(224, 64, {3, 4, 23, 3}), text(512, 8, 12)},
      {"RN101-quickgelu", 512, kQuick, resnet(224, 64, {3, 4, 23, 3}), text(512, 8, 12)},
      {"ViT-B-32", 512, kErf, vision(224, 32, 768, 12), text(512, 8, 12)},
      {"ViT-B-32-quickgelu", 512, kQuick, vision(224, 32, 768, 12), text(512, 8, 12)},
      {"ViT-B-32-256", 512, kErf, vision(256, 32, 768, 12), text(512, 8, 12)},
      {"ViT-B-16", 512, kErf, vision(224, 16, 768, 12), text(512, 8, 12)},
      {"ViT-B-16-quickgelu", 512, kQuick, vision(224, 16, 768, 12), text(512, 8, 12)},
      {"RN50x4", 640, kErf, resnet(288, 80, {4, 6, 10, 6}), text(640, 10, 12)},
      {"RN50x4-quickgelu", 640, kQuick, resnet(288, 80, {4, 6, 10, 6}), text(640, 10, 12)},
      {"ViT-B-16-plus-240", 640, kErf, vision(240, 16, 896, 12), text(640, 10, 12)},
      {"RN50x16", 768, kErf, resnet(384, 96, {6, 8, 18, 8}), text(768, 12, 12)},
      {"RN50x16-quickgelu", 768, kQuick, resnet(384, 96, {6, 8, 18, 8}), text(768, 12, 12)},
      {"ViT-L-14", 768, kErf, vision(224, 14, 1024, 24), text(768, 12, 12)},
      {"ViT-L-14-quickgelu", 768, kQuick, vision(224, 14, 1024, 24), text(768, 12, 12)},
      {"ViT-L-14-336", 768, kErf, vision(336, 14, 1024, 24), text(768, 12, 12)},
      {"ViT-L-14-336-quickgelu", 768, kQuick, vision(336, 14, 1024, 24), text(768, 12, 12)},
      {"RN50x64", 1024, kErf, resnet(448, 128, {3, 15, 36, 10}), text(1024, 16, 12)},
      {"RN50x64-quickgelu", 1024, kQuick, resnet(448, 128, {3, 15, 36, 10}), text(1024, 16, 12)},
      {"ViT-H-14", 1024, kErf, vision(224, 14, 1280, 32, 80), text(1024, 16, 24)},
      {"ViT-H-14-quickgelu", 1024, kQuick, vision(224, 14, 1280, 32, 80), text(1024, 16, 24)},
      {"ViT-H-14-378-quickgelu", 1024, kQuick, vision(378, 14, 1280, 32, 80), text(1024, 16, 24)},
      {"ViT-g-14", 1024, kErf, vision(224, 14, 1408, 40, 88, 4.3637), text(1024, 16, 24)},
      {"ViT-bigG-14", 1280, kErf, vision(224, 14, 1664, 48, 104, 4.9231), text(1280, 20, 32)},
      {"ViT-bigG-14-quickgelu", 1280, kQuick, vision(224, 14, 1664, 48, 104, 4.9231),
       text(1280, 20, 32)},
  };
  return table;
}

}  // namespace

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : presets()) names.emplace_back(preset.name);
  return names;
}

bool same_architecture(ClipConfig a, ClipConfig b) {
  for (ClipConfig* config : {&a, &b}) {
    config->vision.preprocess = {};
    config->init_logit_scale = 0;
    config->init_logit_bias = {};
  }
  return to_json(a) == to_json(b);
}

ClipConfig with_sigmoid_loss(ClipConfig config, double init_logit_bias) {
  config.init_logit_scale = std::log(10.0);
  config.init_logit_bias = init_logit_bias;
  return config;
}

ClipConfig preset(const std::string& name) {
  std::string names, dashed = name;
  std::replace(dashed.begin(), dashed.end(), '/', '-');
  for (const Preset& preset : presets()) {
    if (dashed == preset.name) return {preset.embed_dim, preset.gelu, preset.vision, preset.text};
    names += (names.empty() ? "" : ", ") + std::string(preset.name);
  }
  throw UsageError(concat("there is no model called '", name, "'; there are ", names,
                          ", and open_clip configuration files (.json)"));
}

ClipConfig preset_or_file(const std::string& model) {
  constexpr int64_t kMaxBytes = 1 << 20;
  if (!model.ends_with(".json")) return preset(model);
  return config_from_json(read_file(model, kMaxBytes), model);
}

}  // namespace clip
