// The differentiable ops of CLIP: coarse, because between the products memory traffic is the cost.
// Shapes: N sequences or images, R rows (tokens of a packed batch), C width, H heads, E embedding
// size, L longest context, P patches, V vocabulary. All float inputs of an op share one dtype and
// device. Every op throws clip::Error that names itself, what it expected and what it got.
#pragma once

#include <array>
#include <functional>
#include <vector>

#include "autograd/tape.h"
#include "engine/communicator.h"

namespace clip {

/// y = x Wᵀ (+ b)
/// x [R, K], weight [M, K], bias [M] or undefined where the next op takes it; returns [R, M]
Variable linear(const Variable& x, const Variable& weight, const Variable& bias = {});

/// y = x W: CLIP's projections, stored input-major.
/// x [N, C], weight [C, E]; returns [N, E], F32 if x is BF16: features are kept exact
Variable project(const Variable& x, const Variable& weight);

/// y = x Wᵀ + b: the ResNet's projection, stored like any other weight.
/// x [N, C], weight [E, C], bias [E]; returns [N, E], F32 if x is BF16
Variable project(const Variable& x, const Variable& weight, const Variable& bias);

/// Rows [begin, end) of the leading axis: one of q, k, v out of in_proj_weight or in_proj_bias.
Variable slice_rows(const Variable& x, int64_t begin, int64_t end);

/// Normalises each row; the variance is the population's.
/// x [R, C], weight [C], bias [C]; eps is 1e-5 in all of CLIP; returns [R, C]
Variable layer_norm(const Variable& x, const Variable& weight, const Variable& bias,
                    double eps = 1e-5);

struct ResidualNorm {
  Variable sum;     ///< [R, C] the residual stream
  Variable normed;  ///< [R, C] its layer norm
};
/// sum = residual + x + x_bias; normed = layer_norm(sum, weight, bias).
/// residual [R, C], x [R, C], x_bias [C] of the product that made x, or undefined, weight [C], bias [C]
ResidualNorm bias_residual_layer_norm(const Variable& residual, const Variable& x,
                                      const Variable& x_bias, const Variable& weight,
                                      const Variable& bias, double eps = 1e-5);

/// gelu(x + bias), the bias of the product before it; backward recomputes the activation.
/// x [R, C], bias [C]; returns [R, C]
Variable bias_gelu(const Variable& x, const Variable& bias, Gelu kind);

/// Self-attention of packed sequences.
/// qkv [R, 3 C]: queries, keys, values, each with its heads side by side; returns [R, C]
Variable attention(const Variable& qkv, const Sequences& sequences,
                   const AttentionOptions& options);

/// Attention of other query rows: the last block's one row per sequence.
/// q [Rq, C], kv [R, 2 C]; returns [Rq, C]
Variable attention(const Variable& q, const Variable& kv, const Sequences& sequences,
                   const AttentionOptions& options);

/// Attention whose keys and values come from matrices of their own: the ResNet's attention pool.
/// q [Rq, C], k and v [R, C]; returns [Rq, C]
Variable attention(const Variable& q, const Variable& k, const Variable& v,
                   const Sequences& sequences, const AttentionOptions& options);

/// CLIP's pixel statistics, in units of 1. Source: openai/CLIP clip/clip.py.
inline constexpr std::array<float, 3> kPixelMean = {0.48145466f, 0.4578275f, 0.40821073f};
inline constexpr std::array<float, 3> kPixelStd = {0.26862954f, 0.26130258f, 0.27577711f};

/// What pixels are normalised with, by channel.
struct PixelStatistics {
  std::array<float, 3> mean = kPixelMean;
  std::array<float, 3> std = kPixelStd;
};

/// Pixels to patches, normalised as (value / 255 - mean) / std, times the convolution's weight.
/// images U8 [N, S, S, 3], weight [C, 3, K, K] with S a multiple of K; returns [N (S / K)², C]
Variable patch_embedding(const Tensor& images, const Variable& weight,
                         const PixelStatistics& pixels = {});

/// Class token and positions.
/// x [N P, C], class_token [C], positions [P + 1, C]; returns [N (P + 1), C]
Variable assemble_tokens(const Variable& x, const Variable& class_token, const Variable& positions);

/// Captions end to end, without padding.
struct PackedTokens {
  Tensor tokens;   ///< I32 [R]
  Tensor offsets;  ///< I32 [N + 1]; caption i is rows [offsets[i], offsets[i + 1])
  Tensor order;    ///< I32 [R], rows sorted by token id, then by row
  Tensor ends;     ///< I32 [N], the last row of each caption: its end-of-text token
  int64_t max_length = 0;
};
/// throws clip::Error if a caption is empty
PackedTokens pack_tokens(const std::vector<std::vector<int32_t>>& captions, Backend& backend);

/// table [V, C], positions [L, C] with L >= max_length, ids below V; returns [R, C]
Variable token_embedding(const Variable& table, const Variable& positions,
                         const PackedTokens& tokens);

/// x [R, C], rows I32 [M], no row twice; returns [M, C]
Variable gather_rows(const Variable& x, const Tensor& rows);

/// y = x scale, column by column: LayerScale.
/// x [R, C], scale [C]; returns [R, C]
Variable scale_columns(const Variable& x, const Variable& scale);

/// Convolution of maps, channels last, with zeros around them so that a stride of 1 keeps the size.
/// x [N, H, W, C], weight [O, C, K, K] with K 1 or 3, stride 1 or 2 (K = 1: 1)
/// returns [N, (H - 1) / stride + 1, (W - 1) / stride + 1, O]
Variable conv2d(const Variable& x, const Variable& weight, int64_t stride = 1);

/// Whose mean and variance a BatchNorm normalises with.
struct BatchNormMode {
  enum class Running { kLeft, kMoved };
  /// Training: the rows of all its ranks are one batch (equal counts). Null: evaluation, by the
  /// running statistics. Backward calls it too, so it outlives the tape.
  Communicator* comm = nullptr;
  Running running = Running::kLeft;  ///< whether the running statistics follow this batch
};

/// BatchNorm over all axes but the last, the sum with a residual, and ReLU.
/// x [..., C], residual like x or undefined, weight [C], bias [C]; running: F32 where x is BF16, moved
/// by 0.1 with the unbiased variance; normalising uses the population's. eps is 1e-5 in all of CLIP.
/// returns like x: relu((x - mean) / sqrt(variance + eps) weight + bias + residual)
/// source  torch.nn.SyncBatchNorm; Ioffe & Szegedy 2015, arXiv:1502.03167
Variable batch_norm_relu(const Variable& x, const Variable& residual, const Variable& weight,
                         const Variable& bias, const RunningStatistics& running,
                         const BatchNormMode& mode, Relu relu = Relu::kYes, double eps = 1e-5);

/// Means of windows that do not overlap.
/// x [N, H, W, C] with H and W multiples of `side`; returns [N, H / side, W / side, C]
Variable avg_pool(const Variable& x, int64_t side);

/// Means of every `count` rows.
/// x [N count, C]; returns [N, C]
Variable mean_rows(const Variable& x, int64_t count);

/// A token that is the mean of its image, before the image's own tokens, and positions.
/// x [N, H, W, C], positions [P + 1, C] with P = H W; returns [N (P + 1), C]
Variable mean_token(const Variable& x, const Variable& positions);

/// x / max(|x|, 1e-12) per row; x [N, E]
Variable l2_normalize(const Variable& x);

/// Columns of the losses' tiles unless told otherwise.
inline constexpr int64_t kTileColumns = 1024;

/// Symmetric contrastive loss over the global batch, this rank's rows only. Tiled: memory is
/// O(G E), never O(G²).
///
/// image_features  [N, E]  L2-normalised; F32 or F64
/// text_features   [N, E]  row i belongs to image i
/// logit_scale     []      ln(inverse temperature), dimensionless; starts ln(1/0.07), at most ln(100)
/// comm                    ranks hold equal N; G = N * comm.size()
/// tile_columns            columns of a tile; changes the result by rounding only
/// returns         []      this rank's share; the shares sum to the mean over G of
///                         (CE_image + CE_text) / 2, in nats
/// throws          clip::Error if shapes or dtypes differ
/// source          Radford et al. 2021 (arXiv:2103.00020), figure 3; gradients: clip_loss.cpp
Variable clip_loss(const Variable& image_features, const Variable& text_features,
                   const Variable& logit_scale, Communicator& comm,
                   int64_t tile_columns = kTileColumns);

/// Pairwise sigmoid loss over the global batch, this rank's image rows only. Tiled like clip_loss.
///
/// image_features  [N, E]  L2-normalised; F32 or F64
/// text_features   [N, E]  row i belongs to image i
/// logit_scale     []      ln(inverse temperature), dimensionless; starts ln(10), at most ln(100)
/// logit_bias      []      added to every scaled cosine; starts -10, as most pairs do not match
/// comm                    ranks hold equal N; G = N * comm.size()
/// tile_columns            columns of a tile; changes the result by rounding only
/// returns         []      this rank's share; the shares sum to 1 / G times the sum over all G x G
///                         pairs of -ln sigmoid(+-(s cos + b)), + where they match, in nats
/// throws          clip::Error if shapes or dtypes differ
/// source          Zhai et al. 2023 (arXiv:2303.15343), algorithm 1; gradients: siglip_loss.cpp
Variable siglip_loss(const Variable& image_features, const Variable& text_features,
                     const Variable& logit_scale, const Variable& logit_bias, Communicator& comm,
                     int64_t tile_columns = kTileColumns);

/// Runs `function` now, keeping its inputs alone, and again in backward (activation
/// checkpointing). Parameters that `function` uses get their gradients as usual.
std::vector<Variable> recompute(
    const std::function<std::vector<Variable>(const std::vector<Variable>&)>& function,
    const std::vector<Variable>& inputs);

}  // namespace clip
