// What attention's forward and backward kernels share. Both take one (sequence, head) at a time: its
// keys and values are copied next to each other once and stay in the second-level cache, while
// blocks of queries pass by. Scores never leave the cache.
//
// Letters: D head size, Tq queries and Tk keys of one sequence. In packed copies rows have a length
// of whole vector registers; the rest is zero.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/tile_product.h"
#include "engine/parallel.h"

namespace clip {
namespace {  // for the reason given in tile_product.h

// A block of queries has at most this many rows, so that its scores stay in cache; causal blocks
// are smaller, because a block computes scores up to its last row's diagonal for all its rows.
constexpr int64_t kBlockRows = 72, kCausalBlockRows = 24;
// This many last keys are cheaper as single dot products than as a register of mostly zeros.
constexpr int64_t kMaxDotKeys = 3;
// Below this many queries a transposed copy of the keys costs more than it saves.
constexpr int64_t kMinQueriesToTranspose = 3;

/// One head of one sequence.
struct Head {
  int64_t index, d;
  int64_t first_query, queries;
  int64_t first_key, keys;
  Causal causal;

  template <class T>
  int64_t padded_d() const {
    return round_up(d, kLanes<T>);
  }
  template <class T>
  T scale() const {
    return static_cast<T>(1.0 / std::sqrt(static_cast<double>(d)));
  }
  /// Rows of a block of queries: equal blocks, of whole tiles.
  int64_t block_rows() const {
    const int64_t most = causal == Causal::kYes ? kCausalBlockRows : kBlockRows;
    const int64_t blocks = std::max<int64_t>(1, (queries + most - 1) / most);
    return round_up((queries + blocks - 1) / blocks, kTileRows);
  }
  /// Keys that query `row` sees.
  int64_t visible_keys(int64_t row) const {
    return causal == Causal::kYes ? std::min(row + 1, keys) : keys;
  }
};

/// First element of a head in row `row` of q, k, v or a gradient of them.
template <class T>
const T* head_data(const Columns& columns, int64_t row, const Head& head) {
  return columns.matrix.data<T>() + row * columns.matrix.width() + columns.first +
         head.index * head.d;
}
template <class T>
T* head_data(Columns& columns, int64_t row, const Head& head) {
  return columns.matrix.data<T>() + row * columns.matrix.width() + columns.first +
         head.index * head.d;
}

/// k or v of one head, packed twice.
template <class T>
struct PackedKeys {
  T* rows;              ///< [Tk, padded D]
  T* transposed;        ///< [D, ld], its first vector_keys columns; the other keys are in rows only
  int64_t vector_keys;  ///< a multiple of kLanes<T>, which may exceed Tk: columns of zeros
  int64_t ld;
};

/// Length of a row of the transposed copy: an odd number of registers, so that walking down a
/// column visits all sets of the cache.
template <class T>
int64_t transposed_width(int64_t keys) {
  const int64_t registers = (keys + kLanes<T> - 1) / kLanes<T>;
  return (registers | 1) * kLanes<T>;
}

/// Pieces of one thread's scratch memory, handed out one after the other.
template <class T>
struct Scratch {
  T* next;

  T* take(int64_t elements) {
    T* const piece = next;
    next += round_up(elements, kAlignment);
    return piece;
  }
  /// Elements to set aside: the backward kernel's pieces for a head of max_keys keys.
  static int64_t size(int64_t max_keys, int64_t d) {
    const int64_t padded_d = round_up(d, kLanes<T>), width = transposed_width<T>(max_keys);
    return 2 * round_up(d * width, kAlignment) + 4 * round_up(max_keys * padded_d, kAlignment) +
           3 * round_up(kBlockRows * padded_d, kAlignment) +
           2 * round_up(kBlockRows * width, kAlignment);
  }

 private:
  static constexpr int64_t kAlignment = 64;
};

/// A packed copy of one head's rows, stored as T, times factor.
template <class T>
Real<T>* pack_rows(const Columns& from, int64_t first_row, int64_t rows, Real<T> factor,
                   const Head& head, Scratch<Real<T>>& scratch) {
  const int64_t padded_d = head.padded_d<Real<T>>();
  Real<T>* const to = scratch.take(rows * padded_d);
  pack(to, padded_d, head_data<T>(from, first_row, head), from.matrix.width(), rows, head.d,
       factor);
  return to;
}

template <class T>
PackedKeys<Real<T>> pack_keys(const Columns& from, const Head& head, Scratch<Real<T>>& scratch) {
  using R = Real<T>;
  PackedKeys<R> keys{.rows = pack_rows<T>(from, head.first_key, head.keys, R(1), head, scratch),
                     .transposed = scratch.take(head.d * transposed_width<R>(head.keys)),
                     .vector_keys = 0,
                     .ld = transposed_width<R>(head.keys)};
  if (head.queries >= kMinQueriesToTranspose) {
    const bool last_by_dot = head.keys % kLanes<R> <= kMaxDotKeys;
    keys.vector_keys =
        last_by_dot ? head.keys / kLanes<R> * kLanes<R> : round_up(head.keys, kLanes<R>);
    pack_transposed(keys.transposed, keys.ld, keys.rows, head.padded_d<R>(),
                    std::min(head.keys, keys.vector_keys), head.d, keys.vector_keys);
  }
  return keys;
}

/// products [rows, limit] = left [rows, D] times the transpose of the first keys; columns from Tk
/// on are left undefined. limit is a multiple of kLanes<T>.
template <class T>
void multiply_by_keys(T* products, int64_t ld, const T* left, const PackedKeys<T>& keys,
                      int64_t rows, int64_t limit, const Head& head) {
  const int64_t padded_d = head.padded_d<T>();
  const int64_t by_vector = std::min(limit, keys.vector_keys);
  multiply<Left::kPlain>(products, ld, left, padded_d, keys.transposed, keys.ld, rows, by_vector,
                         head.d, false);
  for (int64_t j = by_vector; j < std::min(limit, head.keys); ++j) {
    for (int64_t i = 0; i < rows; ++i) {
      products[i * ld + j] = dot(left + i * padded_d, keys.rows + j * padded_d, padded_d);
    }
  }
}

/// Minus infinity for scores `visible` to `limit` - 1: of keys that are not seen, and of columns past
/// the last key. limit is a multiple of kLanes<T>.
template <class T>
void mask(T* scores, int64_t visible, int64_t limit) {
  for (int64_t first = visible / kLanes<T> * kLanes<T>; first < limit; first += kLanes<T>) {
    const int32_t kept = static_cast<int32_t>(visible - first);
#pragma omp simd
    for (int32_t lane = 0; lane < static_cast<int32_t>(kLanes<T>); ++lane) {
      T& score = scores[first + lane];
      score = lane < kept ? score : -std::numeric_limits<T>::infinity();
    }
  }
}

/// to [rows, columns] (+)= factor from [rows, columns]
template <class To, class T>
void unpack(To* __restrict to, int64_t stride, const T* __restrict from, int64_t ld, int64_t rows,
            int64_t columns, T factor, Accumulate accumulate) {
  for (int64_t i = 0; i < rows; ++i, to += stride, from += ld) {
    if (accumulate == Accumulate::kYes) {
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j) assign(to[j], to_real(to[j]) + factor * from[j]);
    } else {
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j) assign(to[j], factor * from[j]);
    }
  }
}

/// Runs body(head, scratch) for every head of every sequence, in parallel. Heads share no output.
template <class T, class Body>
void for_heads(Backend& backend, const Columns& q, const Sequences& sequences,
               const AttentionOptions& options, const Body& body) {
  const int32_t* const query_offsets = sequences.query_offsets.data<int32_t>();
  const int32_t* const key_offsets = sequences.key_offsets.data<int32_t>();
  const int64_t count = sequences.query_offsets.numel() - 1, heads = options.heads;
  int64_t max_keys = 0;
  for (int64_t i = 0; i < count; ++i) {
    max_keys = std::max<int64_t>(max_keys, key_offsets[i + 1] - key_offsets[i]);
  }
  const int64_t d = q.count / heads, scratch_size = Scratch<T>::size(max_keys, d);
  Tensor scratch = Tensor::empty(backend, {omp_get_max_threads(), scratch_size}, kDTypeOf<T>);
  T* const scratch_data = scratch.data<T>();
  parallel_for_dynamic(count * heads, [&](int64_t task) {
    const int64_t i = task / heads;
    const Head head{.index = task % heads,
                    .d = d,
                    .first_query = query_offsets[i],
                    .queries = query_offsets[i + 1] - query_offsets[i],
                    .first_key = key_offsets[i],
                    .keys = key_offsets[i + 1] - key_offsets[i],
                    .causal = options.causal};
    body(head, Scratch<T>{scratch_data + omp_get_thread_num() * scratch_size});
  });
}

}  // namespace
}  // namespace clip
