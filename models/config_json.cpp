// open_clip_config.json, written and read.
#include <nlohmann/json.hpp>

#include "engine/check.h"
#include "models/config.h"
#include "models/config_fields.h"
#include "models/strict_json.h"

namespace clip {

using nlohmann::json;

std::string to_json(const ClipConfig& config) {
  using ordered = nlohmann::ordered_json;
  const VisionConfig& vision = config.vision;
  const TextConfig& text = config.text;
  ordered vision_cfg = {{"image_size", vision.image_size},
                        {"layers", vision.layers},
                        {"width", vision.width},
                        {"head_width", vision.head_width}};
  if (vision.is_resnet()) {
    vision_cfg["layers"] = vision.stages;
  } else {
    vision_cfg["patch_size"] = vision.patch_size;
    vision_cfg["mlp_ratio"] = vision.mlp_ratio;
    if (vision.no_ln_pre) vision_cfg["no_ln_pre"] = true;
    if (vision.pool == Pool::kAverage) vision_cfg["pool_type"] = "avg";
    if (vision.final_ln_after_pool) vision_cfg["final_ln_after_pool"] = true;
    if (vision.ls_init_value > 0) vision_cfg["ls_init_value"] = vision.ls_init_value;
  }
  // Without a name open_clip takes OpenAI's vocabulary; with any name, and a local folder, it takes
  // the folder's tokenizer.json. "." says so.
  ordered text_cfg = {{"context_length", text.context_length},
                      {"vocab_size", text.vocab_size},
                      {"hf_tokenizer_name", "."},
                      {"tokenizer_kwargs", ordered::object({{"clean", "lower"}})},
                      {"width", text.width},
                      {"heads", text.heads},
                      {"layers", text.layers},
                      {"mlp_ratio", text.mlp_ratio}};
  if (text.ls_init_value > 0) text_cfg["ls_init_value"] = text.ls_init_value;
  ordered model_cfg = {{"embed_dim", config.embed_dim},
                       {"quick_gelu", config.gelu == Gelu::kQuick}};
  if (config.init_logit_bias) {  // what makes open_clip's model have a logit_bias
    model_cfg["init_logit_scale"] = config.init_logit_scale;
    model_cfg["init_logit_bias"] = *config.init_logit_bias;
  }
  model_cfg["vision_cfg"] = vision_cfg;
  model_cfg["text_cfg"] = text_cfg;
  ordered whole = {{"model_cfg", model_cfg},
                   {"preprocess_cfg", to_json(vision.preprocess, vision.image_size)}};
  return whole.dump(2) + "\n";
}

namespace {

// What both towers of open_clip may have and ours have not.
void refuse_other_blocks(ConfigFields& tower) {
  tower.only({"act_kwargs", "norm_kwargs"}, {json::object()});
  tower.only({"block_type"}, {"default"});
  tower.only({"qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn",
              "scale_fc"},
             {false});
  tower.ignore({"output_tokens"});
}

VisionConfig read_vision(const json& object, const std::string& origin) {
  ConfigFields tower(object, "vision_cfg", origin);
  tower.only({"timm_model_name"}, {json(), ""});
  VisionConfig vision;
  vision.stages = tower.sizes("layers");
  vision.image_size = tower.side("image_size", 224);
  vision.width = tower.size("width", 768);
  vision.head_width = tower.size("head_width", 64);
  if (vision.is_resnet()) {
    tower.ignore({"patch_size", "mlp_ratio", "ls_init_value", "no_ln_pre", "pool_type",
                  "final_ln_after_pool", "attentional_pool"});
  } else {
    vision.layers = tower.size("layers", 12);
    vision.patch_size = tower.side("patch_size", 16);
    vision.mlp_ratio = tower.number("mlp_ratio", 4.0);
    vision.ls_init_value = tower.positive("ls_init_value", 0);
    vision.no_ln_pre = tower.flag("no_ln_pre", false);
    vision.final_ln_after_pool = tower.flag("final_ln_after_pool", false);
    vision.pool = tower.choice<Pool>(
        "pool_type", {{"tok", Pool::kClassToken}, {"avg", Pool::kAverage}}, Pool::kClassToken);
  }
  refuse_other_blocks(tower);
  tower.only({"attentional_pool"}, {false});
  tower.only({"pos_embed_type"}, {"learnable"});
  // Patch dropout acts in open_clip's training only; the others need a pooler or a timm model.
  tower.ignore({"patch_dropout", "attn_pooler_queries", "attn_pooler_heads",
                "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop",
                "timm_drop_path"});
  tower.refuse_others();
  return vision;
}

TextConfig read_text(const json& object, const std::string& origin) {
  ConfigFields tower(object, "text_cfg", origin);
  tower.only({"hf_model_name"}, {json(), ""});
  TextConfig text;
  text.context_length = tower.size("context_length", 77);
  text.vocab_size = tower.size("vocab_size", 49408);
  text.width = tower.size("width", 512);
  text.heads = tower.size("heads", 8);
  text.layers = tower.size("layers", 12);
  text.mlp_ratio = tower.number("mlp_ratio", 4.0);
  text.ls_init_value = tower.positive("ls_init_value", 0);
  refuse_other_blocks(tower);
  tower.only({"final_ln_after_pool"}, {false});
  tower.only({"embed_cls", "no_causal_mask", "proj_bias"}, {false});
  tower.only({"pool_type"}, {"argmax"});
  tower.only({"proj_type"}, {"linear"});
  tower.only({"tokenizer_mode"}, {""});
  tower.only({"tokenizer_kwargs"}, {json::object({{"clean", "lower"}}),
                                    json::object({{"clean", "whitespace"}}), json::object()});
  // Ids of a pad or end-of-text token are the tokenizer's affair: with argmax pooling and a causal
  // mask they do not matter. The others need a Hugging Face tower.
  tower.ignore({"hf_tokenizer_name", "pad_id", "eos_id", "hf_model_pretrained", "hf_proj_type",
                "hf_pooler_type"});
  tower.refuse_others();
  return text;
}

}  // namespace

ClipConfig config_from_json(const std::string& text, const std::string& origin) {
  const json whole = parse_json(text, origin);
  CLIP_CHECK(whole.is_object(), origin, ": must hold an object, got ", shown(whole));
  const json model_object = whole.contains("model_cfg") ? whole["model_cfg"] : whole;
  ConfigFields model(model_object, "model_cfg", origin);
  ClipConfig config;
  config.embed_dim = model.required_size("embed_dim");
  config.gelu = model.flag("quick_gelu", false) ? Gelu::kQuick : Gelu::kErf;
  const json vision = model.object("vision_cfg"), text_tower = model.object("text_cfg");
  config.vision = read_vision(vision, origin);
  config.text = read_text(text_tower, origin);
  model.only({"custom_text"}, {false});
  config.init_logit_scale =
      model.optional_number("init_logit_scale").value_or(config.init_logit_scale);
  config.init_logit_bias = model.optional_number("init_logit_bias");
  model.only({"multimodal_cfg"}, {json()});
  model.ignore({"nonscalar_logit_scale", "output_dict", "preprocess_cfg"});
  model.refuse_others();
  if (whole.contains("preprocess_cfg") && !whole["preprocess_cfg"].is_null())
    config.vision.preprocess = preprocess_from_open_clip(whole["preprocess_cfg"], origin);
  try {
    config.check();
  } catch (const Error& error) {
    throw Error(concat(origin, ": ", error.what()));
  }
  return config;
}

}  // namespace clip
