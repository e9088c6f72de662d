#include "models/clip.h"

namespace clip {
namespace {

/// first, first + step, ...: `count` numbers on a device.
Tensor ramp(Backend& backend, int64_t count, int64_t step) {
  std::vector<int32_t> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    values[static_cast<size_t>(i)] = static_cast<int32_t>(i * step);
  return Tensor::from<int32_t>(backend, {count}, values);
}

}  // namespace

VisionTransformer::VisionTransformer(const VisionConfig& config_, int64_t embed_dim, Gelu gelu)
    : config(config_),
      conv1(Variable::parameter({config.width, 3, config.patch_size, config.patch_size})),
      class_embedding(Variable::parameter({config.width})),
      positional_embedding(Variable::parameter({config.patches() + 1, config.width})),
      ln_pre(config.width),
      transformer(config.width, config.layers, config.heads(), config.mlp_width(), gelu),
      ln_post(config.width),
      proj(Variable::parameter({config.width, embed_dim})) {}

void VisionTransformer::collect(ParameterList& list, const std::string& prefix) const {
  list.add(prefix + ".class_embedding", class_embedding);
  list.add(prefix + ".positional_embedding", positional_embedding);
  list.add(prefix + ".conv1.weight", conv1);
  ln_pre.collect(list, prefix + ".ln_pre");
  transformer.collect(list, prefix + ".transformer");
  ln_post.collect(list, prefix + ".ln_post");
  list.add(prefix + ".proj", proj);
}

Variable VisionTransformer::operator()(const Tensor& images, const Tensor& kept_tokens,
                                       const TowerOptions& options) const {
  CLIP_CHECK(images.rank() == 4 && images.size(1) == config.image_size,
             "[encode_image] images must be [N, ", config.image_size, ", ", config.image_size,
             ", 3], got ", images.shape());
  Variable x = assemble_tokens(patch_embedding(images, conv1, config.preprocess.statistics()),
                               class_embedding, positional_embedding);
  if (kept_tokens) x = gather_rows(x, kept_tokens);
  const int64_t count = images.size(0), tokens = x.size(0) / count;
  const Tensor offsets = ramp(images.backend(), count + 1, tokens);
  const Tensor class_rows = ramp(images.backend(), count, tokens);
  const Variable pooled = transformer(ln_pre(x), {offsets, offsets, tokens, tokens}, Causal::kNo,
                                      class_rows, ln_post, options);
  return project(pooled, proj);
}

TextTransformer::TextTransformer(const TextConfig& config_, int64_t embed_dim, Gelu gelu)
    : config(config_),
      token_embedding(Variable::parameter({config.vocab_size, config.width})),
      positional_embedding(Variable::parameter({config.context_length, config.width})),
      transformer(config.width, config.layers, config.heads, config.mlp_width(), gelu),
      ln_final(config.width),
      text_projection(Variable::parameter({config.width, embed_dim})) {}

void TextTransformer::collect(ParameterList& list, const std::string& prefix) const {
  list.add(prefix + "token_embedding.weight", token_embedding);
  list.add(prefix + "positional_embedding", positional_embedding);
  transformer.collect(list, prefix + "transformer");
  ln_final.collect(list, prefix + "ln_final");
  list.add(prefix + "text_projection", text_projection);
}

Variable TextTransformer::operator()(const PackedTokens& tokens,
                                     const TowerOptions& options) const {
  const Variable x = clip::token_embedding(token_embedding, positional_embedding, tokens);
  const Sequences sequences{tokens.offsets, tokens.offsets, tokens.max_length, tokens.max_length};
  const Variable pooled = transformer(x, sequences, Causal::kYes, tokens.ends, ln_final, options);
  return project(pooled, text_projection);
}

Clip::Clip(const ClipConfig& config_)
    : config(config_),
      visual(config.vision, config.embed_dim, config.gelu),
      text(config.text, config.embed_dim, config.gelu),
      logit_scale(Variable::parameter({})) {
  if (config.loss() == LossKind::kSigmoid) logit_bias = Variable::parameter({});
  config.check();
}

void Clip::collect(ParameterList& list) const {
  visual.collect(list, "visual");
  text.collect(list, "");
  list.add("logit_scale", logit_scale);
  if (logit_bias.defined()) list.add("logit_bias", logit_bias);
}

bool is_locked(const std::string& name, const LockedTowers& locked) {
  if (name == "logit_scale" || name == "logit_bias") return false;
  return name.starts_with("visual.") ? locked.image : locked.text;
}

ClipModel::ClipModel(const ClipConfig& config, Backend& backend, DType dtype,
                     const LockedTowers& locked_)
    : clip(config), locked(locked_) {
  clip.collect(parameters);
  parameters.lock([&](const std::string& name) { return is_locked(name, locked); });
  parameters.allocate(backend, dtype);
}

}  // namespace clip
