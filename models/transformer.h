// The residual blocks that both towers share.
#pragma once

#include <string>
#include <vector>

#include "autograd/ops.h"
#include "autograd/parameter_list.h"

namespace clip {

/// 0, step, 2 step, ...: `count` numbers on a device, I32.
Tensor ramp(Backend& backend, int64_t count, int64_t step);
/// throws clip::Error unless images are [N, image_size, image_size, 3]
void check_images(const Tensor& images, int64_t image_size);

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
  const Variable* bias = nullptr;  // [C] of the branch; null where it has been added (LayerScale)
};

/// Which rows the last block computes. Only the pooled rows of a tower are read, so the rest of the
/// last block need not be computed; the result is the same.
enum class LastBlock { kPooledRows, kAllRows };

/// What backward finds of a block: its activations, or its input alone, from which it computes them
/// again (--grad-checkpointing). The gradients are the same bits.
enum class Activations { kKept, kRecomputed };

/// How a tower is computed; of these the mode of BatchNorm alone changes the result.
struct TowerOptions {
  LastBlock last_block = LastBlock::kPooledRows;
  Activations activations = Activations::kKept;
  BatchNormMode batch_norm = {};  ///< of a ModifiedResNet: evaluation, unless a step says otherwise
};

struct ResidualAttentionBlock {
  ResidualAttentionBlock(int64_t width, int64_t mlp_width, bool layer_scale);
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
  Variable ls_1, ls_2;  // [C] LayerScale of both branches, or undefined
};

struct Transformer {
  Transformer(int64_t width, int64_t layers, int64_t heads, int64_t mlp_width, Gelu gelu,
              bool layer_scale = false);
  void collect(ParameterList& list, const std::string& prefix) const;

  /// The blocks, then `final_norm` at `rows` (I32 [N], one row a sequence; causal sequences: their
  /// last row). x [R, C]; returns [N, C]
  Variable operator()(const Variable& x, const Sequences& sequences, Causal causal,
                      const Tensor& rows, const LayerNorm& final_norm,
                      const TowerOptions& options) const;
  /// The blocks at all rows: the residual stream, and `final_norm` of it. x [R, C]
  ResidualNorm all_rows(const Variable& x, const Sequences& sequences, Causal causal,
                        const LayerNorm& final_norm, const TowerOptions& options) const;

  int64_t heads;
  Gelu gelu;
  std::vector<ResidualAttentionBlock> resblocks;

 private:
  /// The first `count` blocks at all rows.
  Stream run_blocks(const Variable& x, size_t count, const Sequences& sequences, Causal causal,
                    const TowerOptions& options) const;
};

}  // namespace clip
