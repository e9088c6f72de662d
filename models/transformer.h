// The residual blocks that both towers share.
#pragma once

#include <string>
#include <vector>

#include "autograd/ops.h"
#include "autograd/parameter_list.h"

namespace clip {

struct LayerNorm {
  explicit LayerNorm(int64_t width);
  void collect(ParameterList& list, const std::string& prefix) const;
  Variable operator()(const Variable& x) const { return layer_norm(x, weight, bias); }

  Variable weight, bias;  // [C]
};

struct Linear {
  Linear(int64_t inputs, int64_t outputs);
  void collect(ParameterList& list, const std::string& prefix) const;

  Variable weight;  // [outputs, inputs]
  Variable bias;    // [outputs]
};

/// The residual stream between two blocks: `sum` so far, and the last product, whose bias and
/// addition are left to the next layer norm, so that the stream is read and written once per norm.
struct Stream {
  Variable sum;                    // [R, C]
  Variable branch;                 // [R, C], undefined before the first block
  const Variable* bias = nullptr;  // [C] of the branch
};

/// Which rows the last block computes. Only the pooled rows of a tower are read, so the rest of the
/// last block need not be computed; the result is the same.
enum class LastBlock { kPooledRows, kAllRows };

/// What backward finds of a block: its activations, or its input alone, from which it computes them
/// again (--grad-checkpointing). The gradients are the same bits.
enum class Activations { kKept, kRecomputed };

/// How a tower is computed; no choice changes the result.
struct TowerOptions {
  LastBlock last_block = LastBlock::kPooledRows;
  Activations activations = Activations::kKept;
};

struct ResidualAttentionBlock {
  ResidualAttentionBlock(int64_t width, int64_t mlp_width);
  void collect(ParameterList& list, const std::string& prefix) const;

  Stream operator()(const Stream& x, const Sequences& sequences, const AttentionOptions& options,
                    Gelu gelu) const;
  /// The same for some rows only: keys and values of all rows, everything else of `rows` (I32 [N],
  /// one a sequence).
  Stream at_rows(const Stream& x, const Tensor& rows, const Sequences& one_query, int64_t heads,
                 Gelu gelu) const;

  LayerNorm ln_1;
  Variable in_proj_weight, in_proj_bias;  // [3 C, C], [3 C]
  Linear out_proj;
  LayerNorm ln_2;
  Linear c_fc, c_proj;
};

struct Transformer {
  Transformer(int64_t width, int64_t layers, int64_t heads, int64_t mlp_width, Gelu gelu);
  void collect(ParameterList& list, const std::string& prefix) const;

  /// The blocks, then `final_norm` at `rows` (I32 [N], one row a sequence; causal sequences: their
  /// last row). x [R, C]; returns [N, C]
  Variable operator()(const Variable& x, const Sequences& sequences, Causal causal,
                      const Tensor& rows, const LayerNorm& final_norm,
                      const TowerOptions& options) const;

  int64_t heads;
  Gelu gelu;
  std::vector<ResidualAttentionBlock> resblocks;
};

}  // namespace clip
