// Sums over rows, column by column. A block adds up some vectors of columns over one segment of rows:
// its threads, as many rows at once as fit, then these sums in order. A second kernel adds the
// segments. Both orders depend on sizes alone.
#pragma once

#include <initializer_list>

#include "cuda/dynamic_shared.cuh"
#include "cuda/launch_shapes.h"
#include "engine/backend.h"

namespace clip {

/// How the blocks of sum_segment share a matrix [rows, width]: block (x, y) takes segment y and the
/// x-th `lanes` vectors of columns, each row by `lanes` threads.
struct SegmentTiles {
  int64_t rows, width;
  int64_t segment = kSegmentRows;  ///< rows of a segment
  int lanes = kWarp;               ///< divides kBlockThreads

  __device__ int64_t first() const { return static_cast<int64_t>(blockIdx.y) * segment; }
  __device__ int64_t last() const { return first() + segment < rows ? first() + segment : rows; }
};

/// partial [kSums, width] of this block's segment and columns. T is the type that add_row loads.
/// add_row(sums [kSums][kVector<T>], row, column, numbers left) adds one row. Between two calls in one
/// kernel the block must meet.
template <class T, int kSums, class AddRow>
__device__ inline void sum_segment(float* partial, const SegmentTiles& tiles,
                                   const AddRow& add_row) {
  const int columns = tiles.lanes * kVector<T>, rows_at_once = kBlockThreads / tiles.lanes;
  const int lane = block_thread() % tiles.lanes, group = block_thread() / tiles.lanes;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * columns;
  const int64_t column = first_column + lane * kVector<T>, last = tiles.last();
  float sums[kSums][kVector<T>] = {};
  if (column < tiles.width) {
    for (int64_t row = tiles.first() + group; row < last; row += rows_at_once)
      add_row(sums, row, column, tiles.width - column);
  }
  float* shared = dynamic_shared<float>();  // [rows_at_once, kSums, columns]
  for (int sum = 0; sum < kSums; ++sum) {
    const int row = group * kSums + sum;
    for (int i = 0; i < kVector<T>; ++i)
      shared[row * columns + lane * kVector<T> + i] = sums[sum][i];
  }
  __syncthreads();
  for (int i = block_thread(); i < kSums * columns; i += kBlockThreads) {
    const int64_t to = first_column + i % columns;
    if (to >= tiles.width) continue;
    float total = shared[i];
    for (int g = 1; g < rows_at_once; ++g) total += shared[g * kSums * columns + i];
    partial[i / columns * tiles.width + to] = total;
  }
}

inline int64_t segment_count(int64_t rows) { return divide_up(rows, kSegmentRows); }

/// The launch that sum_segment<T, kSums> expects; `layers` is the grid's third size.
template <class T, int kSums>
LaunchShape segment_blocks(const SegmentTiles& tiles, int64_t layers = 1) {
  return {dim3(static_cast<unsigned>(divide_up(tiles.width, tiles.lanes * kVector<T>)),
               static_cast<unsigned>(divide_up(tiles.rows, tiles.segment)),
               static_cast<unsigned>(layers)),
          dim3(kWarp, kBlockWarps),
          static_cast<int64_t>(sizeof(float)) * kBlockThreads * kSums * kVector<T>};
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
