// The contrastive loss, tile by tile: engine/backend.h says what a tile is. Everything is F32 in
// every precision. A row's maximum is subtracted before any exponential, so that no sum overflows.
#include "cuda/cuda_backend.h"
#include "cuda/dynamic_shared.cuh"
#include "cuda/launch_shapes.h"
#include "cuda/loss_tiles.cuh"
#include "engine/scalar_math.h"

namespace clip {
namespace {

/// One block for each row.
__global__ void __launch_bounds__(kBlockThreads)
    clip_loss_tile_forward_kernel(float* row_max, float* row_sum, float* diagonal,
                                  const float* cosines, const float* logit_scale, Tile tile,
                                  bool is_first_tile) {
  float* scratch = dynamic_shared<float>();  // [kBlockWarps]
  const int64_t row = tile.row(), pair = tile.pair();
  const float* tile_row = cosines + row * tile.columns;
  const float scale = scale_of(*logit_scale);
  float maximum = -kInfinityF32;
  for_block_vectors(tile.columns, [&](int64_t column, int64_t left) {
    float values[kVector<float>];
    load_vector(values, tile_row + column, left);
    for (int i = 0; i < kVector<float>; ++i) {
      const float logit = i < left ? scale * values[i] : -kInfinityF32;
      maximum = logit > maximum ? logit : maximum;
    }
  });
  maximum = block_max(maximum, scratch);
  const float before = is_first_tile ? -kInfinityF32 : row_max[row];
  maximum = maximum > before ? maximum : before;
  float total = 0;
  for_block_vectors(tile.columns, [&](int64_t column, int64_t left) {
    float values[kVector<float>];
    load_vector(values, tile_row + column, left);
    for (int i = 0; i < kVector<float>; ++i)
      total += i < left ? exponential(scale * values[i] - maximum) : 0.0f;
  });
  total = block_sum(total, scratch);
  // The barriers of block_sum lie between the threads' reading of row_max above and this writing.
  if (block_thread() > 0) return;
  // What was summed under the old maximum, under the new one.
  const float carried = is_first_tile ? 0.0f : row_sum[row] * exponential(before - maximum);
  row_max[row] = maximum;
  row_sum[row] = carried + total;
  if (pair >= 0 && pair < tile.columns) diagonal[row] = scale * tile_row[pair];
}

__global__ void __launch_bounds__(kBlockThreads)
    clip_loss_log_sum_exp_kernel(float* log_sum_exp, const float* row_max, const float* row_sum,
                                 int64_t rows) {
  const int64_t row = grid_thread();
  if (row < rows) log_sum_exp[row] = row_max[row] + logf(row_sum[row]);
}

/// One block: a few thousand rows, added in F64.
__global__ void __launch_bounds__(kBlockThreads)
    clip_loss_reduce_kernel(float* loss, const float* image_lse, const float* text_lse,
                            const float* diagonal, int64_t rows, int64_t global_rows) {
  double total = 0;
  for (int64_t row = block_thread(); row < rows; row += kBlockThreads) {
    const auto pair = static_cast<double>(diagonal[row]);
    total +=
        (static_cast<double>(image_lse[row]) - pair) + (static_cast<double>(text_lse[row]) - pair);
  }
  total = block_sum(total, dynamic_shared<double>());
  if (block_thread() == 0)
    *loss = static_cast<float>(total / (2.0 * static_cast<double>(global_rows)));
}

/// One block for each row; row_dots null: not wanted.
__global__ void __launch_bounds__(kBlockThreads)
    clip_loss_tile_backward_kernel(float* cosines, float* row_dots, const float* row_lse,
                                   const float* column_lse, const float* logit_scale,
                                   const float* dloss, Tile tile, float global_rows, bool add) {
  const int64_t row = tile.row(), pair = tile.pair();
  float* tile_row = cosines + row * tile.columns;
  const float scale = scale_of(*logit_scale), own_lse = row_lse[row];
  const float factor = *dloss * scale / (2.0f * global_rows);
  float dot = 0;
  for_block_vectors(tile.columns, [&](int64_t column, int64_t left) {
    float values[kVector<float>], lse[kVector<float>];
    load_vector(values, tile_row + column, left);
    load_vector(lse, column_lse + column, left);
    for (int i = 0; i < kVector<float>; ++i) {
      const float cosine = values[i], logit = scale * cosine;
      float gradient = factor * (exponential(logit - own_lse) + exponential(logit - lse[i]));
      if (column + i == pair) gradient -= 2.0f * factor;
      values[i] = gradient;
      if (i < left) dot += gradient * cosine;
    }
    store_vector(tile_row + column, values, left);
  });
  if (row_dots == nullptr) return;  // the whole block
  dot = block_sum(dot, dynamic_shared<float>());
  if (block_thread() == 0) put(row_dots[row], dot, add);
}

}  // namespace

void CudaBackend::clip_loss_tile_forward(Tensor& row_max, Tensor& row_sum, Tensor& diagonal,
                                         const Tensor& cosines, const Tensor& logit_scale,
                                         int64_t first_row, int64_t first_column,
                                         Accumulate to_rows) {
  if (cosines.numel() == 0) return;
  launch("clip_loss_tile_forward", clip_loss_tile_forward_kernel,
         blocks(cosines.size(0), kLossScratchBytes), compute_stream(), row_max.data<float>(),
         row_sum.data<float>(), diagonal.data<float>(), cosines.data<float>(),
         logit_scale.data<float>(), Tile{cosines.width(), first_row, first_column},
         to_rows == Accumulate::kNo);
}

void CudaBackend::clip_loss_log_sum_exp(Tensor& log_sum_exp, const Tensor& row_max,
                                        const Tensor& row_sum) {
  if (row_max.numel() == 0) return;
  launch("clip_loss_log_sum_exp", clip_loss_log_sum_exp_kernel, thread_per_item(row_max.numel()),
         compute_stream(), log_sum_exp.data<float>(), row_max.data<float>(), row_sum.data<float>(),
         row_max.numel());
}

void CudaBackend::clip_loss_reduce(Tensor& loss, const Tensor& image_lse, const Tensor& text_lse,
                                   const Tensor& diagonal, int64_t global_rows) {
  launch("clip_loss_reduce", clip_loss_reduce_kernel,
         blocks(1, kBlockWarps * static_cast<int64_t>(sizeof(double))), compute_stream(),
         loss.data<float>(), image_lse.data<float>(), text_lse.data<float>(),
         diagonal.data<float>(), diagonal.numel(), global_rows);
}

void CudaBackend::clip_loss_tile_backward(Tensor& cosines, Tensor& row_dots, const Tensor& row_lse,
                                          const Tensor& column_lse, const Tensor& logit_scale,
                                          const Tensor& dloss, int64_t first_row,
                                          int64_t first_column, int64_t global_rows,
                                          Accumulate to_row_dots) {
  if (cosines.numel() == 0) return;
  launch("clip_loss_tile_backward", clip_loss_tile_backward_kernel,
         blocks(cosines.size(0), kLossScratchBytes), compute_stream(), cosines.data<float>(),
         data_or_null<float>(row_dots), row_lse.data<float>(), column_lse.data<float>(),
         logit_scale.data<float>(), dloss.data<float>(),
         Tile{cosines.width(), first_row, first_column}, global_rows,
         to_row_dots == Accumulate::kYes);
}

}  // namespace clip
