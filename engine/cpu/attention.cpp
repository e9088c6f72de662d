// Attention, forward: softmax(q kᵀ / sqrt(D)) v.
#include <cmath>

#include "engine/cpu/attention_head.h"
#include "engine/scalar_math.h"

namespace clip {
namespace {

template <class T>
struct RowSoftmax {
  T sum, maximum;
};

/// scores [limit] become e^(score - maximum), whose sum is returned. limit is a multiple of
/// kLanes<T>, not 0.
template <class T>
RowSoftmax<T> exponentiate(T* __restrict scores, int64_t limit) {
  T maximum = scores[0];
#pragma omp simd reduction(max : maximum)
  for (int64_t j = 0; j < limit; ++j) maximum = scores[j] > maximum ? scores[j] : maximum;
#pragma omp simd
  for (int64_t j = 0; j < limit; ++j) scores[j] = exponential(scores[j] - maximum);
  Vector<T> sums = {}, lanes;
  for (int64_t j = 0; j < limit; j += kLanes<T>) {
    std::memcpy(&lanes, scores + j, sizeof lanes);
    sums += lanes;
  }
  return {sum_of_lanes<T, kLanes<T>>(sums), maximum};
}

/// y, log_sum_exp: this sequence and head's first row; y's rows are y_stride apart.
template <class T>
void forward_head(T* y, int64_t y_stride, Real<T>* log_sum_exp, const Columns& q, const Columns& k,
                  const Columns& v, const Head& head, Scratch<Real<T>> scratch) {
  using R = Real<T>;
  const int64_t d = head.d, padded_d = head.padded_d<R>();
  const int64_t ld = round_up(head.keys, kLanes<R>), step = head.block_rows();
  const PackedKeys<R> keys = pack_keys<T>(k, head, scratch);
  R* const values = pack_rows<T>(v, head.first_key, head.keys, R(1), head, scratch);
  R* const sums = scratch.take(kBlockRows * padded_d);
  R* const scores = scratch.take(kBlockRows * ld);
  const Scratch<R> block_scratch = scratch;
  for (int64_t first = 0; first < head.queries; first += step) {
    const int64_t rows = std::min(step, head.queries - first);
    const int64_t seen = head.visible_keys(first + rows - 1), limit = round_up(seen, kLanes<R>);
    scratch = block_scratch;
    const R* const queries =
        pack_rows<T>(q, head.first_query + first, rows, head.scale<R>(), head, scratch);
    multiply_by_keys(scores, ld, queries, keys, rows, limit, head);
    R row_sums[kBlockRows];
    for (int64_t i = 0; i < rows; ++i) {
      mask(scores + i * ld, head.visible_keys(first + i), limit);
      const RowSoftmax<R> row = exponentiate(scores + i * ld, limit);
      row_sums[i] = row.sum;
      log_sum_exp[first + i] = row.maximum + std::log(row.sum);
    }
    multiply<Left::kPlain>(sums, padded_d, scores, ld, values, padded_d, rows, padded_d, seen,
                           false);
    for (int64_t i = 0; i < rows; ++i) {
      unpack(y + (first + i) * y_stride, y_stride, sums + i * padded_d, padded_d, 1, d,
             R(1) / row_sums[i], Accumulate::kNo);
    }
  }
}

}  // namespace

void CpuBackend::attention_forward(Tensor& y, Tensor& log_sum_exp, const Columns& q,
                                   const Columns& k, const Columns& v, const Sequences& sequences,
                                   const AttentionOptions& options) {
  for_float("attention", y.dtype(), [&]<class T>(T) {
    using R = Real<T>;
    const int64_t width = y.width(), total_queries = log_sum_exp.width();
    for_heads<R>(*this, q, sequences, options, [&](const Head& head, const Scratch<R>& scratch) {
      T* const to = y.data<T>() + head.first_query * width + head.index * head.d;
      R* const sums = log_sum_exp.data<R>() + head.index * total_queries + head.first_query;
      if (head.keys > 0) return forward_head<T>(to, width, sums, q, k, v, head, scratch);
      for (int64_t i = 0; i < head.queries; ++i) {  // a softmax over nothing
        std::fill_n(to + i * width, head.d, T{});
        sums[i] = -std::numeric_limits<R>::infinity();
      }
    });
  });
}

}  // namespace clip
