// The pairwise sigmoid loss, tile by tile: engine/backend.h says what a tile is. Everything is F32 in
// every precision.
#include "cuda/cuda_backend.h"
#include "cuda/dynamic_shared.cuh"
#include "cuda/launch_shapes.h"
#include "cuda/loss_tiles.cuh"
#include "engine/scalar_math.h"

namespace clip {
namespace {

/// One block for each row.
__global__ void __launch_bounds__(kBlockThreads)
    siglip_loss_tile_forward_kernel(float* row_losses, const float* cosines,
                                    const float* logit_scale, const float* logit_bias, Tile tile,
                                    float global_rows, bool add) {
  const int64_t row = tile.row(), pair = tile.pair();
  const float* tile_row = cosines + row * tile.columns;
  const float scale = scale_of(*logit_scale), bias = *logit_bias;
  float total = 0;
  for_block_vectors(tile.columns, [&](int64_t column, int64_t left) {
    float values[kVector<float>];
    load_vector(values, tile_row + column, left);
    for (int i = 0; i < kVector<float>; ++i) {
      const float logit = scale * values[i] + bias;
      total += i < left ? softplus(column + i == pair ? -logit : logit) : 0.0f;
    }
  });
  total = block_sum(total, dynamic_shared<float>());
  if (block_thread() == 0) put(row_losses[row], total / global_rows, add);
}

/// One block for each row; row_dots and row_sums null: not wanted.
__global__ void __launch_bounds__(kBlockThreads)
    siglip_loss_tile_backward_kernel(float* cosines, float* row_dots, float* row_sums,
                                     const float* logit_scale, const float* logit_bias,
                                     const float* dloss, Tile tile, float global_rows, bool add) {
  const int64_t row = tile.row(), pair = tile.pair();
  float* tile_row = cosines + row * tile.columns;
  const float scale = scale_of(*logit_scale), bias = *logit_bias, factor = *dloss / global_rows;
  float dot = 0, sum = 0;
  for_block_vectors(tile.columns, [&](int64_t column, int64_t left) {
    float values[kVector<float>];
    load_vector(values, tile_row + column, left);
    for (int i = 0; i < kVector<float>; ++i) {
      const float cosine = values[i], logit = scale * cosine + bias;
      const float gradient =
          column + i == pair ? -factor * sigmoid(-logit) : factor * sigmoid(logit);
      values[i] = scale * gradient;
      if (i < left) {
        sum += gradient;
        dot += gradient * cosine;
      }
    }
    store_vector(tile_row + column, values, left);
  });
  if (row_dots == nullptr) return;  // the whole block
  float* scratch = dynamic_shared<float>();
  dot = block_sum(dot, scratch);
  sum = block_sum(sum, scratch);
  if (block_thread() > 0) return;
  put(row_dots[row], scale * dot, add);
  put(row_sums[row], sum, add);
}

}  // namespace

void CudaBackend::siglip_loss_tile_forward(Tensor& row_losses, const Tensor& cosines,
                                           const Tensor& logit_scale, const Tensor& logit_bias,
                                           int64_t first_row, int64_t first_column,
                                           int64_t global_rows, Accumulate to_row_losses) {
  if (cosines.numel() == 0) return;
  launch("siglip_loss_tile_forward", siglip_loss_tile_forward_kernel,
         blocks(cosines.size(0), kLossScratchBytes), compute_stream(), row_losses.data<float>(),
         cosines.data<float>(), logit_scale.data<float>(), logit_bias.data<float>(),
         Tile{cosines.width(), first_row, first_column}, global_rows,
         to_row_losses == Accumulate::kYes);
}

void CudaBackend::siglip_loss_tile_backward(Tensor& cosines, Tensor& row_dots, Tensor& row_sums,
                                            const Tensor& logit_scale, const Tensor& logit_bias,
                                            const Tensor& dloss, int64_t first_row,
                                            int64_t first_column, int64_t global_rows,
                                            Accumulate to_rows) {
  if (cosines.numel() == 0) return;
  launch("siglip_loss_tile_backward", siglip_loss_tile_backward_kernel,
         blocks(cosines.size(0), kLossScratchBytes), compute_stream(), cosines.data<float>(),
         data_or_null<float>(row_dots), data_or_null<float>(row_sums), logit_scale.data<float>(),
         logit_bias.data<float>(), dloss.data<float>(),
         Tile{cosines.width(), first_row, first_column}, global_rows, to_rows == Accumulate::kYes);
}

}  // namespace clip
