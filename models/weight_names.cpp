#include "models/weight_names.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "engine/check.h"

namespace clip {
namespace {

/// A row of the table; {} stands for a block's number.
struct Rule {
  std::string theirs, ours;
  size_t part = 0, parts = 1;
  bool transposed = false;
};

// Source: transformers' models/clip/modeling_clip.py and open_clip's transformer.py.
std::vector<Rule> make_rules() {
  std::vector<Rule> rules = {
      {"logit_scale", "logit_scale"},
      {"text_model.embeddings.token_embedding.weight", "token_embedding.weight"},
      {"text_model.embeddings.position_embedding.weight", "positional_embedding"},
      {"text_model.final_layer_norm.weight", "ln_final.weight"},
      {"text_model.final_layer_norm.bias", "ln_final.bias"},
      {"text_projection.weight", "text_projection", 0, 1, true},
      {"vision_model.embeddings.class_embedding", "visual.class_embedding"},
      {"vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"},
      {"vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"},
      {"vision_model.pre_layrnorm.weight", "visual.ln_pre.weight"},  // their spelling
      {"vision_model.pre_layrnorm.bias", "visual.ln_pre.bias"},
      {"vision_model.post_layernorm.weight", "visual.ln_post.weight"},
      {"vision_model.post_layernorm.bias", "visual.ln_post.bias"},
      {"visual_projection.weight", "visual.proj", 0, 1, true},
  };
  const std::array<std::pair<const char*, const char*>, 2> towers = {
      {{"text_model.encoder.layers.{}.", "transformer.resblocks.{}."},
       {"vision_model.encoder.layers.{}.", "visual.transformer.resblocks.{}."}}};
  const std::array<std::pair<const char*, const char*>, 5> modules = {
      {{"layer_norm1.", "ln_1."},
       {"layer_norm2.", "ln_2."},
       {"mlp.fc1.", "mlp.c_fc."},
       {"mlp.fc2.", "mlp.c_proj."},
       {"self_attn.out_proj.", "attn.out_proj."}}};
  const std::array<const char*, 3> heads = {"q", "k", "v"};
  for (const auto& [their_block, our_block] : towers) {
    for (const std::string kind : {"weight", "bias"}) {
      for (const auto& [theirs, ours] : modules)
        rules.push_back({concat(their_block, theirs, kind), concat(our_block, ours, kind)});
      for (size_t part = 0; part < heads.size(); ++part)
        rules.push_back({concat(their_block, "self_attn.", heads[part], "_proj.", kind),
                         concat(our_block, "attn.in_proj_", kind), part, heads.size()});
    }
  }
  return rules;
}

const std::vector<Rule>& rules() {
  static const std::vector<Rule> table = make_rules();
  return table;
}

/// "a.12.b" as "a.{}.b" and "12"; the number is empty if there is none.
struct Numbered {
  std::string pattern, number;

  explicit Numbered(const std::string& name) : pattern(name) {
    for (size_t begin = 0; begin < name.size();) {
      const size_t end = std::min(name.find('.', begin), name.size());
      const std::string part = name.substr(begin, end - begin);
      if (!part.empty() && part.find_first_not_of("0123456789") == std::string::npos) {
        number = part;
        pattern = name.substr(0, begin) + "{}" + name.substr(end);
        return;
      }
      begin = end + 1;
    }
  }

  std::string put_into(const std::string& other) const {
    const size_t place = other.find("{}");
    return place == std::string::npos ? other
                                      : other.substr(0, place) + number + other.substr(place + 2);
  }
};

}  // namespace

bool is_hugging_face_name(const std::string& name) {
  return name.starts_with("text_model.") || name.starts_with("vision_model.");
}

NamedPart from_hugging_face(const std::string& name) {
  const Numbered numbered(name);
  for (const Rule& rule : rules())
    if (rule.theirs == numbered.pattern)
      return {name, numbered.put_into(rule.ours), rule.part, rule.parts, rule.transposed};
  return {name, name};
}

std::vector<NamedPart> to_hugging_face(const std::string& parameter) {
  const Numbered numbered(parameter);
  std::vector<NamedPart> parts;
  for (const Rule& rule : rules())
    if (rule.ours == numbered.pattern)
      parts.push_back(
          {numbered.put_into(rule.theirs), parameter, rule.part, rule.parts, rule.transposed});
  CLIP_CHECK(!parts.empty(), "Hugging Face's CLIPModel has no place for the parameter ", parameter);
  return parts;
}

std::string without_wrappers(std::string name) {
  for (const std::string_view wrapper : {"module.", "_orig_mod."})
    if (name.starts_with(wrapper)) name = name.substr(wrapper.size());
  constexpr std::string_view kText = "text.";
  return name.starts_with(kText) ? name.substr(kText.size()) : name;
}

bool is_bookkeeping(const std::string& name) {
  static const std::set<std::string> names = {"input_resolution", "context_length", "vocab_size"};
  const auto ends = [&](std::string_view tail) {
    return name == tail || (name.ends_with(tail) && name[name.size() - tail.size() - 1] == '.');
  };
  return names.contains(name) || ends("attn_mask") || ends("position_ids");
}

}  // namespace clip
