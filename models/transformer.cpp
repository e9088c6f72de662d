#include "models/transformer.h"

#include <functional>

#include "engine/check.h"

namespace clip {

LayerNorm::LayerNorm(int64_t width)
    : weight(Variable::parameter({width})), bias(Variable::parameter({width})) {}

void LayerNorm::collect(ParameterList& list, const std::string& prefix) const {
  list.add(prefix + ".weight", weight);
  list.add(prefix + ".bias", bias);
}

Linear::Linear(int64_t inputs, int64_t outputs)
    : weight(Variable::parameter({outputs, inputs})), bias(Variable::parameter({outputs})) {}

void Linear::collect(ParameterList& list, const std::string& prefix) const {
  list.add(prefix + ".weight", weight);
  list.add(prefix + ".bias", bias);
}

ResidualAttentionBlock::ResidualAttentionBlock(int64_t width, int64_t mlp_width)
    : ln_1(width),
      in_proj_weight(Variable::parameter({3 * width, width})),
      in_proj_bias(Variable::parameter({3 * width})),
      out_proj(width, width),
      ln_2(width),
      c_fc(width, mlp_width),
      c_proj(mlp_width, width) {}

void ResidualAttentionBlock::collect(ParameterList& list, const std::string& prefix) const {
  ln_1.collect(list, prefix + ".ln_1");
  list.add(prefix + ".attn.in_proj_weight", in_proj_weight);
  list.add(prefix + ".attn.in_proj_bias", in_proj_bias);
  out_proj.collect(list, prefix + ".attn.out_proj");
  ln_2.collect(list, prefix + ".ln_2");
  c_fc.collect(list, prefix + ".mlp.c_fc");
  c_proj.collect(list, prefix + ".mlp.c_proj");
}

namespace {

/// Adds the stream's last branch, if there is one, and normalises.
ResidualNorm add_and_norm(const Stream& x, const LayerNorm& norm) {
  if (!x.branch.defined()) return {x.sum, norm(x.sum)};
  return bias_residual_layer_norm(x.sum, x.branch, *x.bias, norm.weight, norm.bias);
}

/// The block's second half: out_proj has been multiplied, c_proj's bias and sum are left to the
/// next norm.
Stream attention_output_and_mlp(const ResidualAttentionBlock& block, const Variable& sum,
                                const Variable& attended, Gelu gelu) {
  const Variable projected = linear(attended, block.out_proj.weight);
  const ResidualNorm x = bias_residual_layer_norm(sum, projected, block.out_proj.bias,
                                                  block.ln_2.weight, block.ln_2.bias);
  const Variable hidden = bias_gelu(linear(x.normed, block.c_fc.weight), block.c_fc.bias, gelu);
  return {x.sum, linear(hidden, block.c_proj.weight), &block.c_proj.bias};
}

}  // namespace

Stream ResidualAttentionBlock::operator()(const Stream& x, const Sequences& sequences,
                                          const AttentionOptions& options, Gelu gelu) const {
  const ResidualNorm in = add_and_norm(x, ln_1);
  const Variable qkv = linear(in.normed, in_proj_weight, in_proj_bias);
  return attention_output_and_mlp(*this, in.sum, attention(qkv, sequences, options), gelu);
}

Stream ResidualAttentionBlock::at_rows(const Stream& x, const Tensor& rows,
                                       const Sequences& one_query, int64_t heads, Gelu gelu) const {
  const ResidualNorm in = add_and_norm(x, ln_1);
  const int64_t width = in.normed.width();
  const Variable sum = gather_rows(in.sum, rows);
  const Variable q = linear(gather_rows(in.normed, rows), slice_rows(in_proj_weight, 0, width),
                            slice_rows(in_proj_bias, 0, width));
  // The keys and values come last so that backward writes their dense gradient first and then adds
  // the few query rows.
  const Variable kv = linear(in.normed, slice_rows(in_proj_weight, width, 3 * width),
                             slice_rows(in_proj_bias, width, 3 * width));
  return attention_output_and_mlp(*this, sum, attention(q, kv, one_query, {.heads = heads}), gelu);
}

namespace {

/// run(x), which runs `block`, with or without keeping what it computes on the way.
Stream run_block(const ResidualAttentionBlock& block, Activations activations, const Stream& x,
                 const std::function<Stream(const Stream&)>& run) {
  if (activations == Activations::kKept) return run(x);
  std::vector<Variable> inputs = {x.sum};
  if (x.branch.defined()) inputs.push_back(x.branch);
  const auto outputs = recompute(
      [run, bias = x.bias](const std::vector<Variable>& in) {
        const Stream y = run({in[0], in.size() > 1 ? in[1] : Variable(), bias});
        return std::vector<Variable>{y.sum, y.branch};
      },
      inputs);
  return {outputs[0], outputs[1], &block.c_proj.bias};
}

}  // namespace

Transformer::Transformer(int64_t width, int64_t layers, int64_t heads_, int64_t mlp_width,
                         Gelu gelu_)
    : heads(heads_), gelu(gelu_) {
  for (int64_t layer = 0; layer < layers; ++layer) resblocks.emplace_back(width, mlp_width);
}

void Transformer::collect(ParameterList& list, const std::string& prefix) const {
  for (size_t layer = 0; layer < resblocks.size(); ++layer)
    resblocks[layer].collect(list, prefix + ".resblocks." + std::to_string(layer));
}

Variable Transformer::operator()(const Variable& x, const Sequences& sequences, Causal causal,
                                 const Tensor& rows, const LayerNorm& final_norm,
                                 const TowerOptions& options) const {
  Stream stream{x, {}, nullptr};
  const size_t whole_blocks =
      resblocks.size() - (options.last_block == LastBlock::kPooledRows ? 1 : 0);
  for (size_t layer = 0; layer < whole_blocks; ++layer)
    stream = run_block(resblocks[layer], options.activations, stream, [=, this](const Stream& in) {
      return resblocks[layer](in, sequences, {.heads = heads, .causal = causal}, gelu);
    });
  if (options.last_block == LastBlock::kAllRows)
    return gather_rows(add_and_norm(stream, final_norm).normed, rows);

  // The pooled row of a causal sequence is its last, which sees all keys: no mask is needed.
  const int64_t count = rows.size(0);
  std::vector<int32_t> one_each(static_cast<size_t>(count + 1));
  for (int64_t i = 0; i <= count; ++i) one_each[static_cast<size_t>(i)] = static_cast<int32_t>(i);
  const Sequences one_query{Tensor::from<int32_t>(rows.backend(), {count + 1}, one_each),
                            sequences.key_offsets, 1, sequences.max_keys};
  stream = run_block(resblocks.back(), options.activations, stream, [=, this](const Stream& in) {
    return resblocks.back().at_rows(in, rows, one_query, heads, gelu);
  });
  return add_and_norm(stream, final_norm).normed;
}

}  // namespace clip
