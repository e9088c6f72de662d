#include "autograd/ops.h"

namespace clip {
namespace {

void check_heads(int64_t width, const Sequences& sequences, const AttentionOptions& options) {
  CLIP_CHECK(options.heads > 0 && width % options.heads == 0, "[attention] width ", width,
             " must be a multiple of the heads, got ", options.heads);
  CLIP_CHECK(sequences.query_offsets.rank() == 1 && sequences.query_offsets.size(0) >= 1 &&
                 sequences.query_offsets.shape() == sequences.key_offsets.shape(),
             "[attention] query and key offsets must both be [N + 1], got ",
             sequences.query_offsets.shape(), " and ", sequences.key_offsets.shape());
}

/// Two products forward and five backward, the scores again among them, of all queries with the keys
/// that they see.
Op attention_op(const Sequences& sequences, Causal causal, int64_t width) {
  return {"attention", [=](Pass pass) {
            const auto queries = sequences.query_offsets.to_vector<int32_t>(),
                       keys = sequences.key_offsets.to_vector<int32_t>();
            double pairs = 0;
            for (size_t i = 1; i < queries.size(); ++i) {
              const double rows = queries[i] - queries[i - 1], seen = keys[i] - keys[i - 1];
              pairs += causal == Causal::kYes ? rows * (rows + 1) / 2 : rows * seen;
            }
            const double products = pass == Pass::kForward ? 2 : 5;
            return OpCost{.flop = 2 * products * pairs * static_cast<double>(width)};
          }};
}

}  // namespace

Variable attention(const Variable& qkv, const Sequences& sequences,
                   const AttentionOptions& options) {
  CLIP_CHECK(qkv.rank() == 2 && qkv.width() % 3 == 0, "[attention] qkv must be [R, 3 C], got ",
             qkv.shape());
  const int64_t rows = qkv.size(0), width = qkv.width() / 3;
  check_heads(width, sequences, options);
  Backend& backend = qkv.backend();
  Tensor y = Tensor::empty(backend, {rows, width}, qkv.dtype());
  Tensor log_sum_exp = Tensor::empty(backend, {options.heads, rows}, sum_dtype(qkv.dtype()));
  const auto part = [width](const Tensor& matrix, int64_t index) {
    return Columns{matrix, index * width, width};
  };
  backend.attention_forward(y, log_sum_exp, part(qkv.value(), 0), part(qkv.value(), 1),
                            part(qkv.value(), 2), sequences, options);
  const Op op = attention_op(sequences, options.causal, width);
  return record(op, y, {qkv}, [=, &backend](const Tensor& dy) {
    auto [dqkv, to_dqkv] = qkv.gradient_slot();
    Columns dq = part(dqkv, 0), dk = part(dqkv, 1), dv = part(dqkv, 2);
    backend.attention_backward(dq, dk, dv, dy, y, log_sum_exp, part(qkv.value(), 0),
                               part(qkv.value(), 1), part(qkv.value(), 2), sequences, options,
                               to_dqkv, to_dqkv);
  });
}

Variable attention(const Variable& q, const Variable& kv, const Sequences& sequences,
                   const AttentionOptions& options) {
  CLIP_CHECK(q.rank() == 2 && kv.rank() == 2 && kv.width() == 2 * q.width(),
             "[attention] q [Rq, C] and kv [R, 2 C] must agree in C, got ", q.shape(), " and ",
             kv.shape());
  const int64_t rows = q.size(0), width = q.width();
  check_heads(width, sequences, options);
  CLIP_CHECK(options.causal == Causal::kNo || rows == kv.size(0),
             "[attention] causal attention needs as many query rows as key rows, got ", rows,
             " and ", kv.size(0));
  Backend& backend = q.backend();
  Tensor y = Tensor::like(q.value());
  Tensor log_sum_exp = Tensor::empty(backend, {options.heads, rows}, sum_dtype(q.dtype()));
  const auto part = [width](const Tensor& matrix, int64_t index) {
    return Columns{matrix, index * width, width};
  };
  backend.attention_forward(y, log_sum_exp, part(q.value(), 0), part(kv.value(), 0),
                            part(kv.value(), 1), sequences, options);
  const Op op = attention_op(sequences, options.causal, width);
  return record(op, y, {q, kv}, [=, &backend](const Tensor& dy) {
    // Both gradients come out of one pass; one that is not wanted goes to a scratch tensor.
    auto [dq_matrix, to_dq] = q.gradient_slot();
    auto [dkv_matrix, to_dkv] = kv.gradient_slot();
    Columns dq = part(dq_matrix ? dq_matrix : Tensor::like(q.value()), 0);
    const Tensor dkv = dkv_matrix ? dkv_matrix : Tensor::like(kv.value());
    Columns dk = part(dkv, 0), dv = part(dkv, 1);
    backend.attention_backward(dq, dk, dv, dy, y, log_sum_exp, part(q.value(), 0),
                               part(kv.value(), 0), part(kv.value(), 1), sequences, options, to_dq,
                               to_dkv);
  });
}

Variable attention(const Variable& q, const Variable& k, const Variable& v,
                   const Sequences& sequences, const AttentionOptions& options) {
  CLIP_CHECK(q.rank() == 2 && k.rank() == 2 && k.width() == q.width() && v.shape() == k.shape(),
             "[attention] q [Rq, C], k [R, C] and v [R, C] must agree in C, got ", q.shape(), ", ",
             k.shape(), " and ", v.shape());
  check_heads(q.width(), sequences, options);
  CLIP_CHECK(options.causal == Causal::kNo, "[attention] causal attention needs q, k and v of one ",
             "matrix");
  Backend& backend = q.backend();
  Tensor y = Tensor::like(q.value());
  Tensor log_sum_exp = Tensor::empty(backend, {options.heads, q.size(0)}, sum_dtype(q.dtype()));
  const auto all = [](const Tensor& matrix) { return Columns{matrix, 0, matrix.width()}; };
  backend.attention_forward(y, log_sum_exp, all(q.value()), all(k.value()), all(v.value()),
                            sequences, options);
  const Op op = attention_op(sequences, options.causal, q.width());
  return record(op, y, {q, k, v}, [=, &backend](const Tensor& dy) {
    // Keys and values share one flag, so their gradients are made here and handed over.
    Tensor dk_matrix = Tensor::like(k.value()), dv_matrix = Tensor::like(v.value());
    auto [dq_matrix, to_dq] = q.gradient_slot();
    Columns dq = all(dq_matrix ? dq_matrix : Tensor::like(q.value()));
    Columns dk = all(dk_matrix), dv = all(dv_matrix);
    backend.attention_backward(dq, dk, dv, dy, y, log_sum_exp, all(q.value()), all(k.value()),
                               all(v.value()), sequences, options, to_dq, Accumulate::kNo);
    k.accept_gradient(dk_matrix);
    v.accept_gradient(dv_matrix);
  });
}

}  // namespace clip
