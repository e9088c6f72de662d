// Products of small row-major matrices that lie in cache: the arithmetic of attention and of F64
// matrix products. A tile of C stays in registers while the depth of the product is walked once, so
// every element of C is one sum in the order of the depth.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "engine/cpu/bfloat16.h"

namespace clip {

// Unnamed, against custom in a header: one program may hold this code compiled for several
// processors, and the linker must not take one copy for all.
namespace {

/// Bytes of the widest vector register of the processor compiled for.
constexpr int64_t kVectorBytes = __BIGGEST_ALIGNMENT__;
/// Elements of one such register.
template <class T>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(T));

/// 6 x 4 accumulators leave room for four columns and a factor in 32 registers (AVX-512, NEON), 6 x
/// 2 in the 16 of AVX2.
constexpr int64_t kTileRows = 6;
constexpr int64_t kTileVectors = kVectorBytes == 32 ? 2 : 4;

template <class T, int64_t kElements>
struct VectorOf {
  typedef T type __attribute__((vector_size(kElements * sizeof(T))));
};
template <class T, int64_t kElements = kLanes<T>>
using Vector = typename VectorOf<T, kElements>::type;

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Sum of the lanes of a register, by halves. (GCC adds the lanes of a simd reduction one by one.)
template <class T, int64_t kElements>
inline T sum_of_lanes(const Vector<T, kElements>& lanes) {
  if constexpr (kElements == 2) {
    return lanes[0] + lanes[1];
  } else {
    return [&]<int... i>(std::integer_sequence<int, i...>) {
      constexpr int kHalf = kElements / 2;
      return sum_of_lanes<T, kHalf>(__builtin_shufflevector(lanes, lanes, i...) +
                                    __builtin_shufflevector(lanes, lanes, (kHalf + i)...));
    }
    (std::make_integer_sequence<int, kElements / 2>());
  }
}

/// a · b over `count` elements, a multiple of kLanes<T>.
template <class T>
inline T dot(const T* __restrict a, const T* __restrict b, int64_t count) {
  Vector<T> sums = {}, left, right;
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    std::memcpy(&left, a + i, sizeof left);
    std::memcpy(&right, b + i, sizeof right);
    sums += left * right;
  }
  return sum_of_lanes<T, kLanes<T>>(sums);
}

/// How the left matrix [rows, depth] is stored: as it is, or as [depth, rows].
enum class Left { kPlain, kTransposed };

/// c [kRows, kVectors registers] (+)= a [kRows, depth] b [depth, kVectors registers].
template <Left kLeft, int kRows, int kVectors, class T>
inline void multiply_tile(T* __restrict c, int64_t ldc, const T* __restrict a, int64_t lda,
                          const T* __restrict b, int64_t ldb, int64_t depth, bool add) {
  Vector<T> sums[kRows][kVectors] = {};
  if (add) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        std::memcpy(&sums[i][v], c + i * ldc + v * kLanes<T>, sizeof(Vector<T>));
      }
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vector<T> right[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      std::memcpy(&right[v], b + k * ldb + v * kLanes<T>, sizeof(Vector<T>));
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const T factor = kLeft == Left::kPlain ? a[i * lda + k] : a[k * lda + i];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[i][v] += factor * right[v];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      std::memcpy(c + i * ldc + v * kLanes<T>, &sums[i][v], sizeof(Vector<T>));
    }
  }
}

/// The same for any number of rows.
template <Left kLeft, int kVectors, class T>
void multiply_panel(T* c, int64_t ldc, const T* a, int64_t lda, const T* b, int64_t ldb,
                    int64_t rows, int64_t depth, bool add) {
  const int64_t row_step = kLeft == Left::kPlain ? lda : 1;
  for (; rows >= kTileRows; rows -= kTileRows, c += kTileRows * ldc, a += kTileRows * row_step) {
    multiply_tile<kLeft, kTileRows, kVectors>(c, ldc, a, lda, b, ldb, depth, add);
  }
  static_assert(kTileRows == 6, "the cases below are the rows that may be left");
  switch (rows) {
    case 5:
      return multiply_tile<kLeft, 5, kVectors>(c, ldc, a, lda, b, ldb, depth, add);
    case 4:
      return multiply_tile<kLeft, 4, kVectors>(c, ldc, a, lda, b, ldb, depth, add);
    case 3:
      return multiply_tile<kLeft, 3, kVectors>(c, ldc, a, lda, b, ldb, depth, add);
    case 2:
      return multiply_tile<kLeft, 2, kVectors>(c, ldc, a, lda, b, ldb, depth, add);
    case 1:
      return multiply_tile<kLeft, 1, kVectors>(c, ldc, a, lda, b, ldb, depth, add);
    default:
      return;
  }
}

/// c [rows, columns] (+)= a [rows, depth] b [depth, columns]; columns is a multiple of kLanes<T>.
template <Left kLeft, class T>
void multiply(T* c, int64_t ldc, const T* a, int64_t lda, const T* b, int64_t ldb, int64_t rows,
              int64_t columns, int64_t depth, bool add) {
  // Panels of even width: five registers as 3 + 2, since a panel of one keeps too few sums going.
  int64_t vectors = columns / kLanes<T>;
  int64_t panels = (vectors + kTileVectors - 1) / kTileVectors;
  for (; panels > 0; --panels) {
    const int64_t width = (vectors + panels - 1) / panels;
    if (width == 1) multiply_panel<kLeft, 1>(c, ldc, a, lda, b, ldb, rows, depth, add);
    if (width == 2) multiply_panel<kLeft, 2>(c, ldc, a, lda, b, ldb, rows, depth, add);
    if constexpr (kTileVectors == 4) {
      if (width == 3) multiply_panel<kLeft, 3>(c, ldc, a, lda, b, ldb, rows, depth, add);
      if (width == 4) multiply_panel<kLeft, 4>(c, ldc, a, lda, b, ldb, rows, depth, add);
    }
    vectors -= width;
    c += width * kLanes<T>;
    b += width * kLanes<T>;
  }
}

/// Zeros in the last register of a row of `ld` elements, of which only `used` will be written. (A
/// plain loop would become a call of memset per row.)
template <class T>
inline void zero_padding(T* row, int64_t used, int64_t ld) {
  const Vector<T> zeros = {};
  if (used < ld) std::memcpy(row + ld - kLanes<T>, &zeros, sizeof zeros);
}

/// to [rows, ld] = factor from [rows, columns]; the rest of each row is zero. ld is columns, or that
/// rounded up to whole registers.
template <class T, class From>
void pack(T* __restrict to, int64_t ld, const From* __restrict from, int64_t stride, int64_t rows,
          int64_t columns, T factor = T(1)) {
  for (int64_t i = 0; i < rows; ++i, to += ld, from += stride) {
    zero_padding(to, columns, ld);
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) to[j] = factor * to_real(from[j]);
  }
}

/// to [4, ...] = transpose of from [4, 4].
template <class T>
inline void transpose_four(T* __restrict to, int64_t ld, const T* __restrict from, int64_t stride) {
  using Four = Vector<T, 4>;
  Four r0, r1, r2, r3;
  std::memcpy(&r0, from, sizeof r0);
  std::memcpy(&r1, from + stride, sizeof r1);
  std::memcpy(&r2, from + 2 * stride, sizeof r2);
  std::memcpy(&r3, from + 3 * stride, sizeof r3);
  const Four low01 = __builtin_shufflevector(r0, r1, 0, 4, 1, 5);
  const Four high01 = __builtin_shufflevector(r0, r1, 2, 6, 3, 7);
  const Four low23 = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
  const Four high23 = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
  r0 = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
  r1 = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
  r2 = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
  r3 = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
  std::memcpy(to, &r0, sizeof r0);
  std::memcpy(to + ld, &r1, sizeof r1);
  std::memcpy(to + 2 * ld, &r2, sizeof r2);
  std::memcpy(to + 3 * ld, &r3, sizeof r3);
}

/// to [columns, ld] = transpose of from [rows, columns]; columns rows ... padded_rows - 1 are zero.
/// padded_rows is rows, or that rounded up to whole registers.
template <class T>
void pack_transposed(T* __restrict to, int64_t ld, const T* __restrict from, int64_t stride,
                     int64_t rows, int64_t columns, int64_t padded_rows) {
  const int64_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
  for (int64_t j = 0; j < columns; ++j) zero_padding(to + j * ld, rows, padded_rows);
  for (int64_t i = 0; i < whole_rows; i += 4) {
    for (int64_t j = 0; j < whole_columns; j += 4) {
      transpose_four(to + j * ld + i, ld, from + i * stride + j, stride);
    }
  }
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t i = j < whole_columns ? whole_rows : 0; i < rows; ++i) {
      to[j * ld + i] = from[i * stride + j];
    }
  }
}

}  // namespace
}  // namespace clip
