// Hugging Face's config.json of CLIP, written and read.
// Source: transformers' models/clip/configuration_clip.py.
#include <nlohmann/json.hpp>

#include "engine/check.h"
#include "models/config.h"
#include "models/config_fields.h"
#include "models/strict_json.h"

namespace clip {
namespace {

using nlohmann::json;
using ordered = nlohmann::ordered_json;

const FieldNames<Gelu> kActivations = {{"quick_gelu", Gelu::kQuick}, {"gelu", Gelu::kErf}};
constexpr double kLayerNormEps = 1e-5;

ordered tower_json(const ClipConfig& config, int64_t width, int64_t hidden, int64_t layers,
                   int64_t heads) {
  return {{"hidden_size", width},
          {"intermediate_size", hidden},
          {"num_hidden_layers", layers},
          {"num_attention_heads", heads},
          {"hidden_act", kActivations[config.gelu == Gelu::kQuick ? 0 : 1].first},
          {"layer_norm_eps", kLayerNormEps},
          {"projection_dim", config.embed_dim}};
}

ordered text_json(const ClipConfig& config) {
  const TextConfig& text = config.text;
  ordered tower = tower_json(config, text.width, text.mlp_width(), text.layers, text.heads);
  tower["model_type"] = "clip_text_model";
  tower["vocab_size"] = text.vocab_size;
  tower["max_position_embeddings"] = text.context_length;
  // transformers takes the token of this id for the text's end.
  tower["bos_token_id"] = text.vocab_size - 2;
  tower["eos_token_id"] = text.vocab_size - 1;
  tower["pad_token_id"] = text.vocab_size - 1;
  return tower;
}

ordered vision_json(const ClipConfig& config) {
  const VisionConfig& vision = config.vision;
  ordered tower =
      tower_json(config, vision.width, vision.mlp_width(), vision.layers, vision.heads());
  tower["model_type"] = "clip_vision_model";
  tower["image_size"] = vision.image_size;
  tower["patch_size"] = vision.patch_size;
  tower["num_channels"] = 3;
  return tower;
}

/// What both towers say.
struct Tower {
  int64_t width, hidden, layers, heads;
  Gelu gelu;
};

// projection_dim here is of the one-tower models; CLIPModel has its own.
Tower read_tower(ConfigFields& fields, const Tower& absent) {
  Tower tower{.width = fields.size("hidden_size", absent.width),
              .hidden = fields.size("intermediate_size", absent.hidden),
              .layers = fields.size("num_hidden_layers", absent.layers),
              .heads = fields.size("num_attention_heads", absent.heads),
              .gelu = fields.choice<Gelu>("hidden_act", kActivations, absent.gelu)};
  fields.only({"layer_norm_eps"}, {kLayerNormEps});
  return tower;
}

// Older files keep what they change in "<tower>_dict", which transformers lets win.
json tower_object(const json& whole, const std::string& tower, const std::string& origin) {
  json object = json::object();
  for (const std::string& field : {tower, tower + "_dict"}) {
    if (!whole.contains(field) || whole[field].is_null()) continue;
    CLIP_CHECK(whole[field].is_object(), origin, ": ", field, " must be an object, got ",
               shown(whole[field]));
    object.update(whole[field]);
  }
  return object;
}

double ratio_in(const Tower& tower, const std::string& name, const std::string& origin) {
  CLIP_CHECK(tower.width > 0 && tower.heads > 0 && tower.width % tower.heads == 0, origin, ": ",
             name, ".hidden_size ", tower.width, " is no multiple of num_attention_heads ",
             tower.heads);
  return mlp_ratio_of(tower.hidden, tower.width);
}

}  // namespace

std::string to_hugging_face_json(const ClipConfig& config, Towers towers) {
  ordered whole;
  if (towers == Towers::kBoth) {
    whole = {{"architectures", {"CLIPModel"}},
             {"model_type", "clip"},
             {"projection_dim", config.embed_dim},
             {"text_config", text_json(config)},
             {"vision_config", vision_json(config)}};
  } else {
    const bool is_text = towers == Towers::kText;
    whole = is_text ? text_json(config) : vision_json(config);
    whole["architectures"] = {is_text ? "CLIPTextModelWithProjection"
                                      : "CLIPVisionModelWithProjection"};
  }
  return whole.dump(2) + "\n";
}

ClipConfig config_from_hugging_face(const std::string& text, const std::string& origin) {
  const json whole = parse_json(text, origin);
  CLIP_CHECK(whole.is_object(), origin, ": must hold an object, got ", shown(whole));
  const json type = whole.value("model_type", json());
  CLIP_CHECK(type != "clip_text_model" && type != "clip_vision_model", origin, ": a model of ",
             shown(type), ", one tower alone; both are needed");
  CLIP_CHECK(type == "clip", origin, ": model_type must be \"clip\", got ", shown(type));
  const json text_object = tower_object(whole, "text_config", origin);
  const json vision_object = tower_object(whole, "vision_config", origin);
  ConfigFields model(whole, "config", origin);
  ConfigFields text_fields(text_object, "text_config", origin);
  ConfigFields vision_fields(vision_object, "vision_config", origin);
  const Tower text_tower = read_tower(text_fields, {512, 2048, 12, 8, Gelu::kQuick});
  const Tower vision_tower = read_tower(vision_fields, {768, 3072, 12, 12, Gelu::kQuick});
  vision_fields.only({"num_channels"}, {3});
  CLIP_CHECK(text_tower.gelu == vision_tower.gelu, origin,
             ": text_config.hidden_act and vision_config.hidden_act differ");
  ClipConfig config;
  config.embed_dim = model.size("projection_dim", 512);
  config.gelu = text_tower.gelu;
  config.vision = {.image_size = vision_fields.side("image_size", 224),
                   .patch_size = vision_fields.side("patch_size", 32),
                   .width = vision_tower.width,
                   .layers = vision_tower.layers,
                   .mlp_ratio = ratio_in(vision_tower, "vision_config", origin)};
  config.vision.head_width = vision_tower.width / vision_tower.heads;
  config.vision.preprocess.crop_rounding = CropRounding::kDown;
  config.text = {.context_length = text_fields.size("max_position_embeddings", 77),
                 .vocab_size = text_fields.size("vocab_size", 49408),
                 .width = text_tower.width,
                 .heads = text_tower.heads,
                 .layers = text_tower.layers,
                 .mlp_ratio = ratio_in(text_tower, "text_config", origin)};
  try {
    config.check();
  } catch (const Error& error) {
    throw Error(concat(origin, ": ", error.what()));
  }
  return config;
}

}  // namespace clip
