// What a CLIP model is made of. Names are those of open_clip's configuration files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/backend.h"
#include "models/preprocess.h"

namespace clip {

/// What a ViT's feature is taken from: the class token, or the mean of all others.
enum class Pool { kClassToken, kAverage };

/// A ViT, or, where it has stages, a ModifiedResNet: then width is that of its first stage, and
/// layers, patch_size, mlp_ratio and pool to ls_init_value mean nothing.
struct VisionConfig {
  static constexpr int64_t kResNetStride = 32;  ///< pixels from place to place of the last map

  int64_t image_size = 224;
  int64_t patch_size = 32;
  int64_t width = 768;
  int64_t layers = 12;
  int64_t head_width = 64;
  double mlp_ratio = 4.0;
  std::vector<int64_t> stages = {};  ///< blocks of a ModifiedResNet's four stages
  Pool pool = Pool::kClassToken;
  bool no_ln_pre = false;
  bool final_ln_after_pool = false;  ///< matters to an average alone
  double ls_init_value = 0;          ///< LayerScale's first value; 0: there is none
  Preprocess preprocess = {};        ///< of its pictures

  bool is_resnet() const { return !stages.empty(); }
  int64_t feature_width() const { return is_resnet() ? 32 * width : width; }  ///< before projection
  int64_t heads() const { return feature_width() / head_width; }
  int64_t mlp_width() const;  ///< mlp_ratio * width, cut to a whole number as open_clip does
  int64_t patches() const;    ///< places of the last map
};

struct TextConfig {
  int64_t context_length = 77;
  int64_t vocab_size = 49408;
  int64_t width = 512;
  int64_t heads = 8;
  int64_t layers = 12;
  double mlp_ratio = 4.0;
  double ls_init_value = 0;

  int64_t mlp_width() const;
};

/// What training minimises: cross-entropies over the batch (CLIP), or for every pair of a picture
/// and a caption whether they match (SigLIP).
enum class LossKind { kSoftmax, kSigmoid };

struct ClipConfig {
  int64_t embed_dim = 512;
  Gelu gelu = Gelu::kQuick;
  VisionConfig vision;
  TextConfig text;
  double init_logit_scale = 2.6592600369327779;  ///< ln(1 / 0.07)
  /// Models of the sigmoid loss have a bias, no others.
  std::optional<double> init_logit_bias = {};

  LossKind loss() const { return init_logit_bias ? LossKind::kSigmoid : LossKind::kSoftmax; }
  /// throws clip::Error that names the field if a size is not positive, is absurdly large, or does
  /// not fit another (heads, patches)
  void check() const;
};

/// What a tower has that OpenAI's transformers have not ("LayerScale"); empty: nothing.
std::string variation_of(const VisionConfig& vision);
std::string variation_of(const TextConfig& text);

/// A model by name. Names and sizes are open_clip's, where "ViT-B-32" computes exact GELU and
/// "ViT-B-32-quickgelu" the QuickGELU of OpenAI's own weights; likewise ViT-B-16, ViT-L-14,
/// ViT-L-14-336 and the ResNets RN50 to RN50x64. ViT-S, ViT-M, ViT-H, ViT-g and ViT-bigG are
/// LAION's. "tiny" and "emoji" are ours, for the CPU. "ViT-B/32" is "ViT-B-32", as in open_clip.
/// throws clip::UsageError that lists the names if there is none
ClipConfig preset(const std::string& name);
std::vector<std::string> preset_names();  ///< smallest first

/// Whether both have the same towers and activation, whatever they prepare pictures like and
/// minimise.
bool same_architecture(ClipConfig a, ClipConfig b);

/// The same towers with the sigmoid loss, whose scale starts at 10.
/// Source: Zhai et al. 2023, section 3.2
ClipConfig with_sigmoid_loss(ClipConfig config, double init_logit_bias);

/// A preset, or an open_clip configuration file (a name that ends in ".json").
ClipConfig preset_or_file(const std::string& model);

/// The mlp_ratio with which mlp_width() is `hidden`.
double mlp_ratio_of(int64_t hidden, int64_t width);

/// open_clip_config.json: {"model_cfg": {...}, "preprocess_cfg": {...}}. The activation is always
/// written.
std::string to_json(const ClipConfig& config);

/// Reads open_clip_config.json, or one of open_clip's model_configs (the inside of "model_cfg").
/// Absent fields have open_clip's defaults. Refused are fields that ask for another architecture
/// than ours, and unknown ones unless they are null; config_json.cpp lists what is accepted.
/// throws clip::Error that names `origin`, the field and its value
ClipConfig config_from_json(const std::string& json, const std::string& origin);

/// Which towers a file is to hold.
enum class Towers { kBoth, kImage, kText };

/// config.json of Hugging Face's CLIPModel, or of CLIPVisionModelWithProjection and
/// CLIPTextModelWithProjection for one tower.
std::string to_hugging_face_json(const ClipConfig& config, Towers towers);

/// Reads the former; absent fields have the defaults of transformers' CLIPConfig. Fields that other
/// tasks need are ignored, and so is eos_token_id, which is wrong in many published files: the text
/// feature is that of the last token.
/// throws clip::Error that names `origin`, the field and its value
ClipConfig config_from_hugging_face(const std::string& json, const std::string& origin);

}  // namespace clip
