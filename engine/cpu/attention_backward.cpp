// Attention, backward. The probabilities p are computed again from the log-sum-exps; with
// dp = dy vᵀ and delta = sum over keys of p dp = dy · y per query, the gradient of the scaled scores
// is ds = p (dp - delta), and dq = ds k scale, dk = dsᵀ q scale, dv = pᵀ dy.
#include "engine/cpu/attention_head.h"
#include "engine/scalar_math.h"

namespace clip {
namespace {

/// For one query: p in place of scores, ds in place of dp. Past the last key dp may hold anything, and
/// so may ds: nobody reads it there.
template <class T>
void softmax_backward(T* __restrict scores, T* __restrict dp, int64_t limit, T log_sum_exp,
                      T delta) {
#pragma omp simd
  for (int64_t j = 0; j < limit; ++j) {
    const T p = exponential(scores[j] - log_sum_exp);
    scores[j] = p;
    dp[j] = p * (dp[j] - delta);
  }
}

/// Rows of one sequence and head: dy and y from its first query on, `stride` apart, and log_sum_exp.
template <class T>
struct Outputs {
  const T *dy, *y;
  int64_t stride;
  const Real<T>* log_sum_exp;
};

template <class T>
void backward_head(Columns& dq, Columns& dk, Columns& dv, const Outputs<T>& outputs,
                   const Columns& q, const Columns& k, const Columns& v, const Head& head,
                   Accumulate to_dq, Accumulate to_dkv, Scratch<Real<T>> scratch) {
  using R = Real<T>;
  const int64_t d = head.d, padded_d = head.padded_d<R>();
  const int64_t ld = round_up(head.keys, kLanes<R>), step = head.block_rows();
  const PackedKeys<R> keys = pack_keys<T>(k, head, scratch),
                      values = pack_keys<T>(v, head, scratch);
  R* const key_sums = scratch.take(head.keys * padded_d);
  R* const value_sums = scratch.take(head.keys * padded_d);
  R* const query_sums = scratch.take(kBlockRows * padded_d);
  R* const ys = query_sums;  // needed before the sums are
  R* const dys = scratch.take(kBlockRows * padded_d);
  R* const scores = scratch.take(kBlockRows * ld);
  R* const dp = scratch.take(kBlockRows * ld);
  std::fill_n(key_sums, head.keys * padded_d, R(0));
  std::fill_n(value_sums, head.keys * padded_d, R(0));
  const Scratch<R> block_scratch = scratch;
  for (int64_t first = 0; first < head.queries; first += step) {
    const int64_t rows = std::min(step, head.queries - first);
    const int64_t seen = head.visible_keys(first + rows - 1), limit = round_up(seen, kLanes<R>);
    scratch = block_scratch;
    const R* const queries =
        pack_rows<T>(q, head.first_query + first, rows, head.scale<R>(), head, scratch);
    pack(dys, padded_d, outputs.dy + first * outputs.stride, outputs.stride, rows, d);
    pack(ys, padded_d, outputs.y + first * outputs.stride, outputs.stride, rows, d);
    multiply_by_keys(scores, ld, queries, keys, rows, limit, head);
    multiply_by_keys(dp, ld, dys, values, rows, limit, head);
    for (int64_t i = 0; i < rows; ++i) {
      mask(scores + i * ld, head.visible_keys(first + i), limit);
      softmax_backward(scores + i * ld, dp + i * ld, limit, outputs.log_sum_exp[first + i],
                       dot(dys + i * padded_d, ys + i * padded_d, padded_d));
    }
    multiply<Left::kTransposed>(value_sums, padded_d, scores, ld, dys, padded_d, seen, padded_d,
                                rows, true);
    multiply<Left::kTransposed>(key_sums, padded_d, dp, ld, queries, padded_d, seen, padded_d, rows,
                                true);
    multiply<Left::kPlain>(query_sums, padded_d, dp, ld, keys.rows, padded_d, rows, padded_d, seen,
                           false);
    unpack(head_data<T>(dq, head.first_query + first, head), dq.matrix.width(), query_sums,
           padded_d, rows, d, head.scale<R>(), to_dq);
  }
  // The queries were packed with the scale, so dk needs none.
  unpack(head_data<T>(dk, head.first_key, head), dk.matrix.width(), key_sums, padded_d, head.keys,
         d, R(1), to_dkv);
  unpack(head_data<T>(dv, head.first_key, head), dv.matrix.width(), value_sums, padded_d, head.keys,
         d, R(1), to_dkv);
}

}  // namespace

void CpuBackend::attention_backward(Columns& dq, Columns& dk, Columns& dv, const Tensor& dy,
                                    const Tensor& y, const Tensor& log_sum_exp, const Columns& q,
                                    const Columns& k, const Columns& v, const Sequences& sequences,
                                    const AttentionOptions& options, Accumulate to_dq,
                                    Accumulate to_dkv) {
  for_float("attention", y.dtype(), [&]<class T>(T) {
    using R = Real<T>;
    const int64_t width = y.width(), total_queries = log_sum_exp.width();
    for_heads<R>(*this, q, sequences, options, [&](const Head& head, const Scratch<R>& scratch) {
      const int64_t first = head.first_query * width + head.index * head.d;
      const Outputs<T> outputs{
          dy.data<T>() + first, y.data<T>() + first, width,
          log_sum_exp.data<R>() + head.index * total_queries + head.first_query};
      backward_head(dq, dk, dv, outputs, q, k, v, head, to_dq, to_dkv, scratch);
    });
  });
}

}  // namespace clip
