#include "models/clip.h"

namespace clip {
VisionTransformer::VisionTransformer(const VisionConfig& config_, int64_t embed_dim, Gelu gelu)
    : config(config_),
      conv1(Variable::parameter({config.width, 3, config.patch_size, config.patch_size})),
      class_embedding(Variable::parameter({config.width})),
      positional_embedding(Variable::parameter({config.patches() + 1, config.width})),
      ln_pre(config.no_ln_pre ? std::optional<LayerNorm>() : LayerNorm(config.width)),
      transformer(config.width, config.layers, config.heads(), config.mlp_width(), gelu,
                  config.ls_init_value > 0),
      ln_post(config.width),
      proj(Variable::parameter({config.width, embed_dim})) {}

void VisionTransformer::collect(ParameterList& list, const std::string& prefix) const {
  list.add(prefix + ".class_embedding", class_embedding);
  list.add(prefix + ".positional_embedding", positional_embedding);
  list.add(prefix + ".conv1.weight", conv1);
  if (ln_pre) ln_pre->collect(list, prefix + ".ln_pre");
  transformer.collect(list, prefix + ".transformer");
  ln_post.collect(list, prefix + ".ln_post");
  list.add(prefix + ".proj", proj);
}

namespace {

/// Mean of each image's rows but the first, its class token: [N T, C] to [N, C].
Variable mean_of_patches(const Variable& tokens, int64_t images) {
  const int64_t count = tokens.size(0) / images;
  std::vector<int32_t> rows;
  for (int64_t row = 0; row < tokens.size(0); ++row)
    if (row % count != 0) rows.push_back(static_cast<int32_t>(row));
  const Variable patches =
      gather_rows(tokens, Tensor::from<int32_t>(tokens.backend(), {images * (count - 1)}, rows));
  return mean_rows(patches, count - 1);
}

}  // namespace

Variable VisionTransformer::operator()(const Tensor& images, const Tensor& kept_tokens,
                                       const TowerOptions& options) const {
  return project(before_projection(images, kept_tokens, options), proj);
}

Variable VisionTransformer::before_projection(const Tensor& images, const Tensor& kept_tokens,
                                              const TowerOptions& options) const {
  check_images(images, config.image_size);
  Variable x = assemble_tokens(patch_embedding(images, conv1, config.preprocess.statistics()),
                               class_embedding, positional_embedding);
  if (kept_tokens) x = gather_rows(x, kept_tokens);
  return pooled(ln_pre ? (*ln_pre)(x) : x, images.size(0), options);
}

Variable VisionTransformer::pooled(const Variable& tokens, int64_t images,
                                   const TowerOptions& options) const {
  Backend& backend = tokens.backend();
  const int64_t count = tokens.size(0) / images;
  const Tensor offsets = ramp(backend, images + 1, count);
  const Sequences sequences{offsets, offsets, count, count};
  if (config.pool == Pool::kClassToken)
    return transformer(tokens, sequences, Causal::kNo, ramp(backend, images, count), ln_post,
                       options);
  const ResidualNorm out = transformer.all_rows(tokens, sequences, Causal::kNo, ln_post, options);
  const Variable mean = mean_of_patches(config.final_ln_after_pool ? out.sum : out.normed, images);
  return config.final_ln_after_pool ? ln_post(mean) : mean;
}

TextTransformer::TextTransformer(const TextConfig& config_, int64_t embed_dim, Gelu gelu)
    : config(config_),
      token_embedding(Variable::parameter({config.vocab_size, config.width})),
      positional_embedding(Variable::parameter({config.context_length, config.width})),
      transformer(config.width, config.layers, config.heads, config.mlp_width(), gelu,
                  config.ls_init_value > 0),
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

namespace {

/// What the configuration asks for, once it is known to be sound.
std::variant<VisionTransformer, ModifiedResNet> image_tower(const ClipConfig& config) {
  config.check();
  if (config.vision.is_resnet()) return ModifiedResNet(config.vision, config.embed_dim);
  return VisionTransformer(config.vision, config.embed_dim, config.gelu);
}

}  // namespace

Clip::Clip(const ClipConfig& config_, const LockedTowers& locked_)
    : config(config_),
      locked(locked_),
      visual(image_tower(config)),
      text(config.text, config.embed_dim, config.gelu),
      logit_scale(Variable::parameter({})) {
  if (config.loss() == LossKind::kSigmoid) logit_bias = Variable::parameter({});
}

void Clip::collect(ParameterList& list) const {
  std::visit([&](const auto& tower) { tower.collect(list, "visual"); }, visual);
  text.collect(list, "");
  list.add("logit_scale", logit_scale);
  if (logit_bias.defined()) list.add("logit_bias", logit_bias);
}

Variable Clip::probe_features(const Tensor& images) const {
  const auto* transformer = std::get_if<VisionTransformer>(&visual);
  return transformer ? transformer->before_projection(images, {}, towers) : encode_image(images);
}

bool is_locked(const std::string& name, const LockedTowers& locked) {
  if (name == "logit_scale" || name == "logit_bias") return false;
  return name.starts_with("visual.") ? locked.image : locked.text;
}

ClipModel::ClipModel(const ClipConfig& config, Backend& backend, DType dtype,
                     const LockedTowers& locked)
    : clip(config, locked) {
  clip.collect(parameters);
  parameters.lock([&](const std::string& name) { return is_locked(name, locked); });
  parameters.allocate(backend, dtype);
}

}  // namespace clip
