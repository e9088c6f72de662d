// Matrix products, and the bias on both of their sides: add_bias forward, column_sums backward.
#include <omp.h>

#include <algorithm>
#include <type_traits>

#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/onednn.h"
#include "engine/cpu/segments.h"
#include "engine/cpu/tile_product.h"
#include "engine/parallel.h"

namespace clip {
namespace {

/// Blocks of c, each of which one thread computes. They depend on sizes alone.
struct Grid {
  int64_t m, n;
  int64_t rows, columns;  // of a block; less at the ends

  int64_t row_blocks() const { return (m + rows - 1) / rows; }
  int64_t column_blocks() const { return (n + columns - 1) / columns; }

  /// Runs body(first row, rows, first column, columns) for each block, in parallel.
  template <class Body>
  void for_blocks(const Body& body) const {
    parallel_for_dynamic(row_blocks() * column_blocks(), [&](int64_t task) {
      const int64_t i = task / column_blocks() * rows, j = task % column_blocks() * columns;
      body(i, std::min(rows, m - i), j, std::min(columns, n - j));
    });
  }
};

/// The grid for oneDNN's products: large blocks read their operands least often, but there should be
/// enough of them to share among threads.
Grid sgemm_grid(int64_t m, int64_t n, Transpose transpose_b) {
  constexpr int64_t kLargest = 512, kFewest = 16;
  // oneDNN copies a transposed b for every block, which takes many rows to pay off.
  const int64_t smallest = transpose_b == Transpose::kYes ? 128 : 48;
  // What the kernels for AVX-512 compute at once.
  constexpr int64_t kRowUnit = 8, kColumnUnit = 48;
  const auto part = [](int64_t size, int64_t parts, int64_t unit) {
    return (size + parts * unit - 1) / (parts * unit) * unit;
  };
  int64_t row_parts = (m + kLargest - 1) / kLargest, column_parts = (n + kLargest - 1) / kLargest;
  Grid grid{m, n, part(m, row_parts, kRowUnit), part(n, column_parts, kColumnUnit)};
  while (grid.row_blocks() * grid.column_blocks() < kFewest &&
         std::max(grid.rows, grid.columns) >= 2 * smallest) {
    if (grid.rows > grid.columns) {
      grid.rows = part(m, row_parts *= 2, kRowUnit);
    } else {
      grid.columns = part(n, column_parts *= 2, kColumnUnit);
    }
  }
  return grid;
}

/// A matrix as stored, and how it enters the product.
template <class T>
struct Operand {
  const T* data;
  int64_t width;
  Transpose transpose;

  /// op(matrix) from (row, column) on.
  const T* at(int64_t row, int64_t column) const {
    return data + (transpose == Transpose::kNo ? row * width + column : column * width + row);
  }
};

void multiply(float* c, int64_t m, int64_t n, int64_t k, const Operand<float>& a,
              const Operand<float>& b, const MatmulOptions& options) {
  const float beta = options.accumulate == Accumulate::kYes ? 1.0f : 0.0f;
  sgemm_grid(m, n, b.transpose)
      .for_blocks([&](int64_t i, int64_t rows, int64_t j, int64_t columns) {
        onednn_sgemm(a.transpose, b.transpose, rows, columns, k, static_cast<float>(options.alpha),
                     a.at(i, 0), a.width, b.at(0, j), b.width, beta, c + i * n + j, n);
      });
}

/// The grid for oneDNN's BF16 products. Its fastest kernels want whole rows of c and an op(a) that is
/// stored as it is; with few rows, or a transposed a, blocks as for F32 serve.
Grid bf16_grid(int64_t m, int64_t n, Transpose transpose_a, Transpose transpose_b) {
  constexpr int64_t kFewest = 16, kLeastRows = 96, kMostRows = 256, kUnit = 16;
  if (transpose_a == Transpose::kYes || m < kFewest * kLeastRows)
    return sgemm_grid(m, n, transpose_b);
  return {m, n, std::clamp(round_up((m + kFewest - 1) / kFewest, kUnit), kLeastRows, kMostRows), n};
}

template <class C>
void multiply(C* c, int64_t m, int64_t n, int64_t k, const Operand<BF16>& a, const Operand<BF16>& b,
              Accumulate accumulate) {
  bf16_grid(m, n, a.transpose, b.transpose)
      .for_blocks([&](int64_t i, int64_t rows, int64_t j, int64_t columns) {
        onednn_bf16_gemm(a.transpose, b.transpose, rows, columns, k, a.at(i, 0), a.width,
                         b.at(0, j), b.width, accumulate, c + i * n + j, n);
      });
}

/// Rows whose products make one partial sum of a weight's gradient.
constexpr int64_t kGradientRows = 2048, kMostPartials = 8;

/// c [m, n] (+)= aᵀ b over many rows k: the sums over parts of the rows, each by one thread, are added
/// in their order.
void multiply_over_rows(Tensor& c, int64_t k, const BF16* a, const BF16* b, Accumulate accumulate) {
  const int64_t m = c.rows(), n = c.width();
  const int64_t rows = std::max(kGradientRows, (k + kMostPartials - 1) / kMostPartials);
  const int64_t parts = (k + rows - 1) / rows;
  Tensor partial = Tensor::empty(c.backend(), {parts, m, n}, DType::kF32);
  float* const partials = partial.data<float>();
  parallel_for_dynamic(parts, [=](int64_t part) {
    const int64_t first = part * rows;
    onednn_bf16_weight_gradient(m, n, std::min(rows, k - first), a + first * m, b + first * n,
                                partials + part * m * n);
  });
  add_segments(c, partials, parts, m * n, accumulate);
}

// A block of op(a) and one of op(b) fit the second-level cache together, in F64: 96 KB and 256 KB.
constexpr int64_t kBlockRows = 48, kBlockColumns = 128, kBlockDepth = 256;
constexpr int64_t kBlockScratch =
    kBlockRows * kBlockDepth + kBlockDepth * kBlockColumns + kBlockRows * kBlockColumns;

/// to [rows, ld] = op(from) from (row, column) on; columns up to ld are zero.
void pack_block(double* to, int64_t ld, const Operand<double>& from, int64_t row, int64_t rows,
                int64_t column, int64_t columns) {
  if (from.transpose == Transpose::kNo) {
    pack(to, ld, from.at(row, column), from.width, rows, columns);
  } else {
    pack_transposed(to, ld, from.at(row, column), from.width, columns, rows, ld);
  }
}

/// c [rows, columns], rows n apart, (+)= alpha sums.
void store_block(double* c, int64_t n, const double* sums, int64_t ld, int64_t rows,
                 int64_t columns, const MatmulOptions& options) {
  for (int64_t i = 0; i < rows; ++i) {
    double* __restrict to = c + i * n;
    const double* __restrict from = sums + i * ld;
    if (options.accumulate == Accumulate::kYes) {
      for (int64_t j = 0; j < columns; ++j) to[j] += options.alpha * from[j];
    } else {
      for (int64_t j = 0; j < columns; ++j) to[j] = options.alpha * from[j];
    }
  }
}

void multiply(double* c, int64_t m, int64_t n, int64_t k, const Operand<double>& a,
              const Operand<double>& b, const MatmulOptions& options, double* scratch) {
  const Grid grid{m, n, kBlockRows, kBlockColumns};
  grid.for_blocks([&](int64_t i, int64_t rows, int64_t j, int64_t columns) {
    double* const left = scratch + omp_get_thread_num() * kBlockScratch;
    double* const right = left + kBlockRows * kBlockDepth;
    double* const sums = right + kBlockDepth * kBlockColumns;
    const int64_t padded = round_up(columns, kLanes<double>);
    for (int64_t first = 0; first < k; first += kBlockDepth) {
      const int64_t depth = std::min(kBlockDepth, k - first);
      pack_block(left, depth, a, i, rows, first, depth);
      pack_block(right, padded, b, first, depth, j, columns);
      multiply<Left::kPlain>(sums, padded, left, depth, right, padded, rows, padded, depth,
                             first > 0);
    }
    store_block(c + i * n + j, n, sums, padded, rows, columns, options);
  });
}

/// The constant weight b of c = a bᵀ, packed; null if it is not, or the product is another.
const PackedWeight* packed(Transpose transpose_a, const Tensor& b, Transpose transpose_b,
                           const MatmulOptions& options, PackedWeights& constants) {
  const bool serves = transpose_a == Transpose::kNo && transpose_b == Transpose::kYes &&
                      options.alpha == 1.0 && options.accumulate == Accumulate::kNo;
  return serves ? constants.find(b) : nullptr;
}

/// A product of BF16 factors: by the processor's instructions for that, or the same numbers in F32.
void multiply_bf16(Tensor& c, const Tensor& a, Transpose transpose_a, const Tensor& b,
                   Transpose transpose_b, const MatmulOptions& options, PackedWeights& constants) {
  const Tensor left = a.as_dtype(DType::kBF16), right = b.as_dtype(DType::kBF16);
  if (options.alpha != 1.0 || c.backend().fast_dtype() != DType::kBF16) {
    const bool is_read = c.dtype() == DType::kF32 || options.accumulate == Accumulate::kYes;
    Tensor wide =
        is_read ? c.as_dtype(DType::kF32) : Tensor::empty(c.backend(), c.shape(), DType::kF32);
    c.backend().matmul(wide, left.as_dtype(DType::kF32), transpose_a, right.as_dtype(DType::kF32),
                       transpose_b, options);
    if (c.dtype() == DType::kBF16) c.backend().convert(c, wide);
    return;
  }
  if (const PackedWeight* weight = packed(transpose_a, right, transpose_b, options, constants))
    return weight->multiply(c, left);
  const int64_t k = transpose_a == Transpose::kNo ? a.width() : a.rows();
  const Operand<BF16> first{left.data<BF16>(), left.width(), transpose_a};
  const Operand<BF16> second{right.data<BF16>(), right.width(), transpose_b};
  if (c.dtype() == DType::kF32 && transpose_a == Transpose::kYes && transpose_b == Transpose::kNo &&
      k >= 2 * kGradientRows) {
    multiply_over_rows(c, k, first.data, second.data, options.accumulate);
  } else if (c.dtype() == DType::kBF16) {
    multiply(c.data<BF16>(), c.rows(), c.width(), k, first, second, options.accumulate);
  } else {
    multiply(c.data<float>(), c.rows(), c.width(), k, first, second, options.accumulate);
  }
}

}  // namespace

DType CpuBackend::fast_dtype() const { return onednn_has_bf16() ? DType::kBF16 : DType::kF32; }

void CpuBackend::matmul(Tensor& c, const Tensor& a, Transpose transpose_a, const Tensor& b,
                        Transpose transpose_b, const MatmulOptions& options) {
  const int64_t m = c.rows(), n = c.width();
  const int64_t k = transpose_a == Transpose::kNo ? a.width() : a.rows();
  if (c.numel() == 0) return;
  if (k == 0) {
    if (options.accumulate == Accumulate::kNo) fill_zero(c);
    return;
  }
  if (a.dtype() == DType::kBF16 || b.dtype() == DType::kBF16)
    return multiply_bf16(c, a, transpose_a, b, transpose_b, options, constants_);
  for_real("matmul", c.dtype(), [&]<class T>(T) {
    const Operand<T> left{a.data<T>(), a.width(), transpose_a};
    const Operand<T> right{b.data<T>(), b.width(), transpose_b};
    if constexpr (std::is_same_v<T, float>) {
      if (const PackedWeight* weight = packed(transpose_a, b, transpose_b, options, constants_))
        return weight->multiply(c, a);
      multiply(c.data<float>(), m, n, k, left, right, options);
    } else {
      Tensor scratch = Tensor::empty(*this, {omp_get_max_threads(), kBlockScratch}, c.dtype());
      multiply(c.data<double>(), m, n, k, left, right, options, scratch.data<double>());
    }
  });
}

void CpuBackend::add_bias(Tensor& y, const Tensor& bias) {
  for_float("add_bias", y.dtype(), [&]<class T>(T) {
    const int64_t rows = y.rows(), width = y.width();
    T* const values = y.data<T>();
    const T* const added = bias.data<T>();
    constexpr int64_t kRowsPerTask = 64;
    parallel_for((rows + kRowsPerTask - 1) / kRowsPerTask, [=](int64_t task) {
      const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
      for (int64_t r = task * kRowsPerTask; r < end; ++r) {
        T* const row = values + r * width;
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) {
          assign(row[j], to_real(row[j]) + to_real(added[j]));
        }
      }
    });
  });
}

void CpuBackend::column_sums(Tensor& sums, const Tensor& x, Accumulate accumulate) {
  for_float("column_sums", x.dtype(), [&]<class T>(T) {
    const int64_t rows = x.rows(), width = sums.numel(), segments = segment_count(rows);
    const T* const values = x.data<T>();
    Tensor partial = Tensor::empty(*this, {segments, width}, sums.dtype());
    Real<T>* const partials = partial.data<Real<T>>();
    for_segments(rows, [=](int64_t segment, int64_t begin, int64_t end) {
      Real<T>* const sum = partials + segment * width;
      for (int64_t j = 0; j < width; ++j) sum[j] = Real<T>(0);
      for (int64_t r = begin; r < end; ++r) {
        const T* const row = values + r * width;
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) sum[j] += to_real(row[j]);
      }
    });
    add_segments(sums, partials, segments, width, accumulate);
  });
}

}  // namespace clip
