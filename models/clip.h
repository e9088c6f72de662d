// CLIP: two towers into one space. Reference: openai/CLIP clip/model.py.
#pragma once

#include <cstdint>
#include <optional>
#include <variant>

#include "models/config.h"
#include "models/modified_resnet.h"
#include "models/transformer.h"

namespace clip {

struct VisionTransformer {
  VisionTransformer(const VisionConfig& config, int64_t embed_dim, Gelu gelu);
  void collect(ParameterList& list, const std::string& prefix) const;
  /// images U8 [N, S, S, 3]; returns [N, E], not normalised
  Variable operator()(const Tensor& images, const TowerOptions& options) const;

  VisionConfig config;
  Variable conv1;                 // [C, 3, K, K]
  Variable class_embedding;       // [C]
  Variable positional_embedding;  // [P + 1, C]
  std::optional<LayerNorm> ln_pre;
  Transformer transformer;
  LayerNorm ln_post;
  Variable proj;  // [C, E]

 private:
  /// [N, C], normalised, from the tokens [N (P + 1), C]
  Variable pooled(const Variable& tokens, int64_t images, const TowerOptions& options) const;
};

struct TextTransformer {
  TextTransformer(const TextConfig& config, int64_t embed_dim, Gelu gelu);
  void collect(ParameterList& list, const std::string& prefix) const;
  /// returns [N, E], not normalised: the feature of each caption's last token (end-of-text)
  Variable operator()(const PackedTokens& tokens, const TowerOptions& options) const;

  TextConfig config;
  Variable token_embedding;       // [V, C]
  Variable positional_embedding;  // [L, C]
  Transformer transformer;
  LayerNorm ln_final;
  Variable text_projection;  // [C, E]
};

struct Clip {
  explicit Clip(const ClipConfig& config);
  void collect(
      ParameterList& list) const;  ///< image tower, text tower, logit_scale: under OpenAI's names

  Variable encode_image(const Tensor& images) const { return encode_image(images, towers); }
  Variable encode_image(const Tensor& images, const TowerOptions& options) const {
    return std::visit([&](const auto& tower) { return tower(images, options); }, visual);
  }
  Variable encode_text(const PackedTokens& tokens) const { return text(tokens, towers); }

  ClipConfig config;
  std::variant<VisionTransformer, ModifiedResNet> visual;
  TextTransformer text;
  Variable logit_scale;  // []
  TowerOptions towers;
};

/// A model with its parameters allocated, as programs use it.
struct ClipModel {
  ClipModel(const ClipConfig& config, Backend& backend, DType dtype = DType::kF32);

  Clip clip;
  ParameterList parameters;
};

/// OpenAI's initialisation from counter-based random numbers: a tensor's values depend on (seed,
/// name). Source: openai/CLIP clip/model.py, initialize_parameters; visual blocks, convolutions and all
/// Linear biases keep PyTorch's.
void initialize(ParameterList& parameters, const ClipConfig& config, uint64_t seed);

}  // namespace clip
