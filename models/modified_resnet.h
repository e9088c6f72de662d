// The ResNet of CLIP: a stem of three convolutions, strides that average first, and a pool that
// attends. Reference: openai/CLIP clip/model.py, ModifiedResNet.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "models/config.h"
#include "models/transformer.h"

namespace clip {

struct BatchNorm {
  explicit BatchNorm(int64_t width);
  void collect(ParameterList& list, const std::string& prefix) const;
  Variable operator()(const Variable& x, const BatchNormMode& mode, Relu relu = Relu::kYes,
                      const Variable& residual = {}) const;

  Variable weight, bias;                                    // [C]
  Variable running_mean, running_var, num_batches_tracked;  // buffers: [C], [C], []
};

/// 1x1, 3x3 and 1x1 convolutions around a residual sum; four times as many channels leave as the 3x3
/// one has. A stride is an average pool after the 3x3 convolution, and on the way past it.
struct Bottleneck {
  Bottleneck(int64_t inputs, int64_t channels, int64_t stride);
  void collect(ParameterList& list, const std::string& prefix) const;
  Variable operator()(const Variable& x, const BatchNormMode& mode) const;

  struct Downsample {
    Variable conv;
    BatchNorm norm;
  };
  int64_t stride;
  Variable conv1, conv2, conv3;  // [O, C, K, K]
  BatchNorm bn1, bn2, bn3;
  std::optional<Downsample> downsample;  // where the sizes before and after differ
};

/// Attention of an image's mean token to itself and all places.
struct AttentionPool {
  AttentionPool(int64_t places, int64_t width, int64_t heads, int64_t embed_dim);
  void collect(ParameterList& list, const std::string& prefix) const;
  /// x [N, H, W, C]; returns [N, E]
  Variable operator()(const Variable& x) const;

  int64_t heads;
  Variable positional_embedding;  // [P + 1, C]
  Linear q_proj, k_proj, v_proj, c_proj;
};

struct ModifiedResNet {
  ModifiedResNet(const VisionConfig& config, int64_t embed_dim);
  void collect(ParameterList& list, const std::string& prefix) const;
  /// images U8 [N, S, S, 3]; kept_tokens undefined, for there are no patches to drop
  /// returns [N, E], not normalised
  Variable operator()(const Tensor& images, const Tensor& kept_tokens,
                      const TowerOptions& options) const;

  VisionConfig config;
  Variable conv1, conv2, conv3;
  BatchNorm bn1, bn2, bn3;
  std::vector<std::vector<Bottleneck>> layers;  // four stages: layer1 ... layer4
  AttentionPool attnpool;
};

}  // namespace clip
