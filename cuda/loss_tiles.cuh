// What the kernels of both losses share: a tile of cosines, one block for each row of it.
#pragma once

#include "cuda/device_math.cuh"

namespace clip {

/// Columns [first_column, first_column + columns); `row` is this block's, its pair at `pair`.
struct Tile {
  int64_t columns, first_row, first_column;

  __device__ int64_t row() const { return blockIdx.x; }
  /// Outside [0, columns) if the pair's column is in another tile.
  __device__ int64_t pair() const { return first_row + row() - first_column; }
};

/// Runs body(column, numbers left) for the vectors of a row that fall to this thread of the block.
template <class Body>
__device__ inline void for_block_vectors(int64_t width, const Body& body) {
  for (int64_t column = block_thread() * kVector<float>; column < width;
       column += kBlockThreads * kVector<float>)
    body(column, width - column);
}

inline constexpr int64_t kLossScratchBytes = kBlockWarps * sizeof(float);  ///< of a block's sums

}  // namespace clip
