#include "models/transformer.h"

#include <functional>

#include "engine/check.h"

namespace clip {

Tensor ramp(Backend& backend, int64_t count, int64_t step) {
  std::vector<int32_t> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    values[static_cast<size_t>(i)] = static_cast<int32_t>(i * step);
  return Tensor::from<int32_t>(backend, {count}, values);
}

void check_images(const Tensor& images, int64_t image_size) {
  CLIP_CHECK(images.rank() == 4 && has_shape(images, {images.size(0), image_size, image_size, 3}),
             "[encode_image] images must be [N, ", image_size, ", ", image_size, ", 3], got ",
             images.shape());
}

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

ResidualAttentionBlock::ResidualAttentionBlock(int64_t width, int64_t mlp_width, bool layer_scale)
    : ln_1(width),
      in_proj_weight(Variable::parameter({3 * width, width})),
      in_proj_bias(Variable::parameter({3 * width})),
      out_proj(width, width),
      ln_2(width),
      c_fc(width, mlp_width),
      c_proj(mlp_width, width),
      ls_1(layer_scale ? Variable::parameter({width}) : Variable()),
      ls_2(layer_scale ? Variable::parameter({width}) : Variable()) {}

void ResidualAttentionBlock::collect(ParameterList& list, const std::string& prefix) const {
  ln_1.collect(list, prefix + ".ln_1");
  list.add(prefix + ".attn.in_proj_weight", in_proj_weight);
  list.add(prefix + ".attn.in_proj_bias", in_proj_bias);
  out_proj.collect(list, prefix + ".attn.out_proj");
  if (ls_1.defined()) list.add(prefix + ".ls_1.gamma", ls_1);
  ln_2.collect(list, prefix + ".ln_2");
  c_fc.collect(list, prefix + ".mlp.c_fc");
  c_proj.collect(list, prefix + ".mlp.c_proj");
  if (ls_2.defined()) list.add(prefix + ".ls_2.gamma", ls_2);
}

namespace {

/// Adds the stream's last branch, if there is one, and normalises.
ResidualNorm add_and_norm(const Stream& x, const LayerNorm& norm) {
  if (!x.branch.defined()) return {x.sum, norm(x.sum)};
  return bias_residual_layer_norm(x.sum, x.branch, x.bias == nullptr ? Variable() : *x.bias,
                                  norm.weight, norm.bias);
}

/// sum and a branch that ends in `last`, whose bias and addition are left to the next norm unless a
/// LayerScale comes between.
Stream with_branch(const Variable& sum, const Variable& x, const Linear& last,
                   const Variable& layer_scale) {
  if (!layer_scale.defined()) return {sum, linear(x, last.weight), &last.bias};
  return {sum, scale_columns(linear(x, last.weight, last.bias), layer_scale), nullptr};
}

/// The block's second half; c_proj's bias and sum are left to the next norm.
Stream attention_output_and_mlp(const ResidualAttentionBlock& block, const Variable& sum,
                                const Variable& attended, Gelu gelu) {
  const ResidualNorm x =
      add_and_norm(with_branch(sum, attended, block.out_proj, block.ls_1), block.ln_2);
  const Variable hidden = bias_gelu(linear(x.normed, block.c_fc.weight), block.c_fc.bias, gelu);
  return with_branch(x.sum, hidden, block.c_proj, block.ls_2);
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
  return {outputs[0], outputs[1], block.ls_2.defined() ? nullptr : &block.c_proj.bias};
}

}  // namespace

Transformer::Transformer(int64_t width, int64_t layers, int64_t heads_, int64_t mlp_width,
                         Gelu gelu_, bool layer_scale)
    : heads(heads_), gelu(gelu_) {
  for (int64_t layer = 0; layer < layers; ++layer)
    resblocks.emplace_back(width, mlp_width, layer_scale);
}

void Transformer::collect(ParameterList& list, const std::string& prefix) const {
  for (size_t layer = 0; layer < resblocks.size(); ++layer)
    resblocks[layer].collect(list, prefix + ".resblocks." + std::to_string(layer));
}

Stream Transformer::run_blocks(const Variable& x, size_t count, const Sequences& sequences,
                               Causal causal, const TowerOptions& options) const {
  Stream stream{x, {}, nullptr};
  for (size_t layer = 0; layer < count; ++layer)
    stream = run_block(resblocks[layer], options.activations, stream, [=, this](const Stream& in) {
      return resblocks[layer](in, sequences, {.heads = heads, .causal = causal}, gelu);
    });
  return stream;
}

ResidualNorm Transformer::all_rows(const Variable& x, const Sequences& sequences, Causal causal,
                                   const LayerNorm& final_norm, const TowerOptions& options) const {
  return add_and_norm(run_blocks(x, resblocks.size(), sequences, causal, options), final_norm);
}

Variable Transformer::operator()(const Variable& x, const Sequences& sequences, Causal causal,
                                 const Tensor& rows, const LayerNorm& final_norm,
                                 const TowerOptions& options) const {
  if (options.last_block == LastBlock::kAllRows)
    return gather_rows(all_rows(x, sequences, causal, final_norm, options).normed, rows);

  // The pooled row of a causal sequence is its last, which sees all keys: no mask is needed.
  Stream stream = run_blocks(x, resblocks.size() - 1, sequences, causal, options);
  const Sequences one_query{ramp(rows.backend(), rows.size(0) + 1, 1), sequences.key_offsets, 1,
                            sequences.max_keys};
  stream = run_block(resblocks.back(), options.activations, stream, [=, this](const Stream& in) {
    return resblocks.back().at_rows(in, rows, one_query, heads, gelu);
  });
  return add_and_norm(stream, final_norm).normed;
}

}  // namespace clip
