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
  /// images U8 [N, S, S, 3]; kept_tokens I32 [N (K + 1)], the rows of the N (P + 1) tokens that go
  /// through the blocks (patch dropout), undefined: all; returns [N, E], not normalised
  Variable operator()(const Tensor& images, const Tensor& kept_tokens,
                      const TowerOptions& options) const;
  /// The same before the projection, [N, C]: I_f in figure 3 of the paper.
  Variable before_projection(const Tensor& images, const Tensor& kept_tokens,
                             const TowerOptions& options) const;

  VisionConfig config;
  Variable conv1;                 // [C, 3, K, K]
  Variable class_embedding;       // [C]
  Variable positional_embedding;  // [P + 1, C]
  std::optional<LayerNorm> ln_pre;
  Transformer transformer;
  LayerNorm ln_post;
  Variable proj;  // [C, E]

 private:
  /// [N, C], normalised, from the tokens [N T, C]
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

/// Towers that training leaves as they are; a BatchNorm of theirs goes by its running statistics.
/// Source: Zhai et al. 2021, arXiv:2111.07991 (LiT)
struct LockedTowers {
  bool image = false, text = false;
};

struct Clip {
  explicit Clip(const ClipConfig& config, const LockedTowers& locked = {});
  /// Image tower, text tower, logit_scale, logit_bias: under OpenAI's names.
  void collect(ParameterList& list) const;

  Variable encode_image(const Tensor& images, const Tensor& kept_tokens = {}) const {
    return encode_image(images, kept_tokens, towers);
  }
  Variable encode_image(const Tensor& images, const Tensor& kept_tokens,
                        const TowerOptions& options) const {
    return std::visit([&](const auto& tower) { return tower(images, kept_tokens, options); },
                      visual);
  }
  /// What the paper's linear probes read, [N, C or E], in the towers' dtype or F32: of a
  /// VisionTransformer the features before its projection; a ResNet has none after its attention pool.
  Variable probe_features(const Tensor& images) const;
  Variable encode_text(const PackedTokens& tokens) const { return text(tokens, towers); }

  ClipConfig config;
  LockedTowers locked;
  std::variant<VisionTransformer, ModifiedResNet> visual;
  TextTransformer text;
  Variable logit_scale;  // []
  Variable logit_bias;   // [] with the sigmoid loss, else undefined
  TowerOptions towers;
};

/// Whether a parameter, by its name, is one of these towers'.
bool is_locked(const std::string& name, const LockedTowers& locked);

/// A model with its parameters allocated, as programs use it.
struct ClipModel {
  ClipModel(const ClipConfig& config, Backend& backend, DType dtype = DType::kF32,
            const LockedTowers& locked = {});

  Clip clip;
  ParameterList parameters;
};

/// OpenAI's initialisation from counter-based random numbers: a tensor's values depend on (seed,
/// name). Source: openai/CLIP clip/model.py, initialize_parameters; visual blocks, convolutions and
/// all Linear biases keep PyTorch's.
void initialize(ParameterList& parameters, const ClipConfig& config, uint64_t seed);

}  // namespace clip
