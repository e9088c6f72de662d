// Sums over rows, column by column. A block adds up 32 vectors of columns over one segment of
// kSegmentRows rows: each of its warps every eighth row, then the warps' sums in order. A second
// kernel adds the segments. Both orders depend on sizes alone.
#pragma once

#include <initializer_list>

#include "cuda/dynamic_shared.cuh"
#include "cuda/launch_shapes.h"
#include "engine/backend.h"

namespace clip {

/// Columns that one block of sum_segment covers.
template <class T>
inline constexpr int kBlockColumns = kWarp* kVector<T>;

/// partial [kSums, width] of segment blockIdx.y, for the columns of block blockIdx.x. T is the type
/// that add_row loads. add_row(sums [kSums][kVector<T>], row, column, numbers left) adds one row.
template <class T, int kSums, class AddRow>
__device__ inline void sum_segment(float* partial, int64_t rows, int64_t width,
                                   const AddRow& add_row) {
  constexpr int kColumns = kBlockColumns<T>;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kColumns;
  const int64_t column = first_column + static_cast<int64_t>(threadIdx.x) * kVector<T>;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kSegmentRows;
  const int64_t last = first + kSegmentRows < rows ? first + kSegmentRows : rows;
  float sums[kSums][kVector<T>] = {};
  if (column < width) {
    for (int64_t row = first + threadIdx.y; row < last; row += kBlockWarps)
      add_row(sums, row, column, width - column);
  }
  float* shared = dynamic_shared<float>();  // [kBlockWarps, kSums, kColumns]
  for (int sum = 0; sum < kSums; ++sum) {
    const int row = static_cast<int>(threadIdx.y) * kSums + sum;
    for (int i = 0; i < kVector<T>; ++i)
      shared[row * kColumns + static_cast<int>(threadIdx.x) * kVector<T> + i] = sums[sum][i];
  }
  __syncthreads();
  for (int i = block_thread(); i < kSums * kColumns; i += kBlockThreads) {
    const int64_t to = first_column + i % kColumns;
    if (to >= width) continue;
    float total = shared[i];
    for (int warp = 1; warp < kBlockWarps; ++warp) total += shared[warp * kSums * kColumns + i];
    partial[i / kColumns * width + to] = total;
  }
}

inline int64_t segment_count(int64_t rows) { return divide_up(rows, kSegmentRows); }

/// The launch that sum_segment<T, kSums> expects; `layers` is the grid's third size.
template <class T, int kSums>
LaunchShape segment_blocks(int64_t rows, int64_t width, int64_t layers = 1) {
  return {dim3(static_cast<unsigned>(divide_up(width, kBlockColumns<T>)),
               static_cast<unsigned>(segment_count(rows)), static_cast<unsigned>(layers)),
          dim3(kWarp, kBlockWarps),
          static_cast<int64_t>(sizeof(float)) * kBlockWarps * kSums * kBlockColumns<T>};
}

/// Where a column sum goes; an undefined tensor is not wanted.
struct ColumnTotal {
  Tensor& sums;  ///< F32, `width` numbers
  Accumulate to_sums;
};

/// totals[i] (+)= sum over segments of partials F32 [segments, stride] from column i * width on; at
/// most three totals.
void add_segments(cudaStream_t stream, std::initializer_list<ColumnTotal> totals,
                  const Tensor& partials, int64_t width);

/// Partial column sums, F32 [segments, width], of the first `width` columns of x [rows, stride].
Tensor partial_column_sums(cudaStream_t stream, const Tensor& x, int64_t rows, int64_t stride,
                           int64_t width);

}  // namespace clip
