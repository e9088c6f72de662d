// BatchNorm with the ReLU and the residual sum after it. Maps have few channels and very many rows,
// so here a block's threads share rows of a tile of columns, and segments grow with the rows.
#include "cuda/column_sums.cuh"
#include "cuda/cuda_backend.h"

namespace clip {
namespace {

constexpr int64_t kMostSegments = 512;  // enough blocks for any GPU, few partial sums to join

int64_t segment_rows(int64_t rows) {
  return divide_up(divide_up(rows, kMostSegments), kSegmentRows) * kSegmentRows;
}

/// Threads next to each other in a row of vectors: a power of two that covers narrow rows once.
int lanes_for(int64_t vectors) {
  int lanes = 1;
  while (lanes < kWarp && lanes < vectors) lanes *= 2;
  return lanes;
}

template <class T>
SegmentTiles tiles_of(const Tensor& x) {
  return {x.rows(), x.width(), segment_rows(x.rows()), lanes_for(divide_up(x.width(), kVector<T>))};
}

/// partials [segments, 2, width]: mean and sum of squared deviations of each segment's columns.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    column_moments_kernel(float* partials, const T* x, SegmentTiles tiles) {
  float* mean = partials + static_cast<int64_t>(blockIdx.y) * 2 * tiles.width;
  const float share = 1.0f / static_cast<float>(tiles.last() - tiles.first());
  sum_segment<T, 1>(mean, tiles,
                    [=](float(&sums)[1][kVector<T>], int64_t row, int64_t column, int64_t left) {
                      float values[kVector<T>];
                      load_vector(values, x + row * tiles.width + column, left);
                      for (int i = 0; i < kVector<T>; ++i) sums[0][i] += values[i] * share;
                    });
  __syncthreads();  // the block's means are written, and shared memory is read
  sum_segment<T, 1>(mean + tiles.width, tiles,
                    [=](float(&sums)[1][kVector<T>], int64_t row, int64_t column, int64_t left) {
                      float values[kVector<T>];
                      load_vector(values, x + row * tiles.width + column, left);
                      for (int i = 0; i < kVector<T>; ++i) {
                        const float deviation = i < left ? values[i] - mean[column + i] : 0.0f;
                        sums[0][i] += deviation * deviation;
                      }
                    });
}

/// Moments of parts of part_rows rows each, the last of fewer.
struct Parts {
  const float* moments;  // [P, 2, width]
  int64_t rows, part_rows, width;
};

/// The sum of x over the warps of a block, lane by lane, in every thread; all threads must call.
__device__ float sum_over_warps(float x) {
  float* shared = dynamic_shared<float>();  // [kBlockWarps, 32]
  __syncthreads();                          // it may still be read for the call before
  shared[block_thread()] = x;
  __syncthreads();
  float total = 0;
  for (int warp = 0; warp < kBlockWarps; ++warp) total += shared[warp * kWarp + threadIdx.x];
  return total;
}

struct Moments {
  float mean, squares;
};

/// The moments of all rows for this lane's column; each warp takes every eighth part.
__device__ Moments join(const Parts& parts, int64_t column) {
  const int64_t count = (parts.rows + parts.part_rows - 1) / parts.part_rows;
  const auto rows_of = [&](int64_t part) {
    const int64_t left = parts.rows - part * parts.part_rows;
    return static_cast<float>(left < parts.part_rows ? left : parts.part_rows);
  };
  float mean = 0;
  if (column < parts.width) {
    for (int64_t part = threadIdx.y; part < count; part += kBlockWarps)
      mean += rows_of(part) / static_cast<float>(parts.rows) *
              parts.moments[2 * part * parts.width + column];
  }
  mean = sum_over_warps(mean);
  float squares = 0;
  if (column < parts.width) {
    for (int64_t part = threadIdx.y; part < count; part += kBlockWarps) {
      const float* from = parts.moments + 2 * part * parts.width + column;
      const float deviation = from[0] - mean;
      squares += from[parts.width] + rows_of(part) * deviation * deviation;
    }
  }
  return {mean, sum_over_warps(squares)};
}

__device__ int64_t lane_column() { return static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x; }

LaunchShape lane_per_column(int64_t width) {
  return blocks(divide_up(width, kWarp), kBlockThreads * sizeof(float));
}

__global__ void __launch_bounds__(kBlockThreads) join_moments_kernel(float* moments, Parts parts) {
  const int64_t column = lane_column();
  const Moments all = join(parts, column);
  if (threadIdx.y > 0 || column >= parts.width) return;
  moments[column] = all.mean;
  moments[parts.width + column] = all.squares;
}

/// Null: not wanted.
struct Running {
  float *mean, *variance, *batches;
  float momentum;
};

__global__ void __launch_bounds__(kBlockThreads)
    batch_norm_statistics_kernel(float* statistics, Running running, Parts parts, float eps) {
  const int64_t column = lane_column();
  const Moments all = join(parts, column);
  if (threadIdx.y > 0 || column >= parts.width) return;
  const auto rows = static_cast<float>(parts.rows);
  statistics[column] = all.mean;
  statistics[parts.width + column] = 1.0f / sqrtf(all.squares / rows + eps);
  if (running.mean == nullptr) return;
  running.mean[column] += running.momentum * (all.mean - running.mean[column]);
  running.variance[column] +=
      running.momentum * (all.squares / (rows - 1.0f) - running.variance[column]);
  if (column == 0) *running.batches += 1.0f;
}

/// x [rows, width] and what it is normalised with; weight, bias and residual may be null where a
/// kernel does not read them.
template <class T>
struct Norm {
  const T *x, *weight, *bias, *residual;
  const float *mean, *rstd;
  int64_t rows, width;
};

/// The F32 numbers of a vector of columns, past the end 0.
template <int kCount>
__device__ void load_columns(float (&values)[kCount], const float* from, int64_t left) {
  for (int i = 0; i < kCount; ++i) values[i] = i < left ? from[i] : 0.0f;
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    batch_norm_relu_forward_kernel(T* y, Norm<T> norm, bool relu) {
  constexpr int kCount = kVector<T>;
  const auto [row, column, left] = vector_place<T>(norm.width);
  if (row >= norm.rows) return;
  const int64_t at = row * norm.width + column;
  float values[kCount], mean[kCount], rstd[kCount], weight[kCount];
  float bias[kCount] = {}, residual[kCount] = {};
  load_vector(values, norm.x + at, left);
  load_columns(mean, norm.mean + column, left);
  load_columns(rstd, norm.rstd + column, left);
  load_vector(weight, norm.weight + column, left);
  if (norm.bias != nullptr) load_vector(bias, norm.bias + column, left);
  if (norm.residual != nullptr) load_vector(residual, norm.residual + at, left);
  for (int i = 0; i < kCount; ++i) {
    const float value = (values[i] - mean[i]) * (rstd[i] * weight[i]) + bias[i] + residual[i];
    values[i] = relu && value < 0.0f ? 0.0f : value;  // a NaN stays visible
  }
  store_vector(y + at, values, left);
}

/// dy where y is positive; y null: everywhere.
template <class T>
__device__ void load_through_relu(float (&gradient)[kVector<T>], const T* dy, const T* y,
                                  int64_t at, int64_t left) {
  load_vector(gradient, dy + at, left);
  if (y == nullptr) return;
  float mask[kVector<T>];
  load_vector(mask, y + at, left);
  for (int i = 0; i < kVector<T>; ++i) gradient[i] = mask[i] > 0.0f ? gradient[i] : 0.0f;
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    batch_norm_relu_sums_kernel(float* partials, const T* dy, const T* y, Norm<T> norm,
                                SegmentTiles tiles) {
  float* partial = partials + static_cast<int64_t>(blockIdx.y) * 2 * tiles.width;
  sum_segment<T, 2>(partial, tiles,
                    [&](float(&sums)[2][kVector<T>], int64_t row, int64_t column, int64_t left) {
                      const int64_t at = row * tiles.width + column;
                      float g[kVector<T>], x[kVector<T>], mean[kVector<T>], rstd[kVector<T>];
                      load_through_relu(g, dy, y, at, left);
                      load_vector(x, norm.x + at, left);
                      load_columns(mean, norm.mean + column, left);
                      load_columns(rstd, norm.rstd + column, left);
                      for (int i = 0; i < kVector<T>; ++i) {
                        sums[0][i] += g[i] * (x[i] - mean[i]) * rstd[i];
                        sums[1][i] += g[i];
                      }
                    });
}

/// sums [2, width] or null, share: 1 / rows that were normalised together. dx, dresidual may be null.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    batch_norm_relu_backward_kernel(T* dx, T* dresidual, const T* dy, const T* y, Norm<T> norm,
                                    const float* sums, float share, bool add) {
  constexpr int kCount = kVector<T>;
  const auto [row, column, left] = vector_place<T>(norm.width);
  if (row >= norm.rows) return;
  const int64_t at = row * norm.width + column;
  float gradient[kCount], rstd[kCount], weight[kCount];
  load_through_relu(gradient, dy, y, at, left);
  if (dresidual != nullptr) store_vector(dresidual + at, gradient, left);
  if (dx == nullptr) return;
  load_columns(rstd, norm.rstd + column, left);
  load_vector(weight, norm.weight + column, left);
  if (sums != nullptr) {
    float x[kCount], mean[kCount], products[kCount], gradients[kCount];
    load_vector(x, norm.x + at, left);
    load_columns(mean, norm.mean + column, left);
    load_columns(products, sums + column, left);
    load_columns(gradients, sums + norm.width + column, left);
    for (int i = 0; i < kCount; ++i)
      gradient[i] -= (gradients[i] + (x[i] - mean[i]) * rstd[i] * products[i]) * share;
  }
  for (int i = 0; i < kCount; ++i) gradient[i] *= weight[i] * rstd[i];
  put_vector(dx + at, gradient, left, add);
}

template <class T>
Norm<T> norm_of(const Tensor& x, const Tensor& statistics, const Tensor& weight, const Tensor& bias,
                const Tensor& residual) {
  const float* mean = statistics.data<float>();
  return {x.data<T>(),
          data_or_null<T>(weight),
          data_or_null<T>(bias),
          data_or_null<T>(residual),
          mean,
          mean + x.width(),
          x.rows(),
          x.width()};
}

}  // namespace

void CudaBackend::column_moments(Tensor& moments, const Tensor& x) {
  const cudaStream_t stream = compute_stream();
  const int64_t rows = x.rows(), width = x.width(), segment = segment_rows(rows);
  if (x.numel() == 0) return fill_zero(moments);
  Tensor partials = Tensor::empty(*this, {divide_up(rows, segment), 2, width}, DType::kF32);
  for_cuda_float("column_moments", x.dtype(), [&]<class T>(T) {
    const SegmentTiles tiles = tiles_of<T>(x);
    launch("column_moments", column_moments_kernel<T>, segment_blocks<T, 1>(tiles), stream,
           partials.data<float>(), x.data<T>(), tiles);
  });
  launch("join_moments", join_moments_kernel, lane_per_column(width), stream, moments.data<float>(),
         Parts{partials.data<float>(), rows, segment, width});
}

void CudaBackend::batch_norm_statistics(Tensor& statistics, RunningStatistics& running,
                                        const Tensor& parts, int64_t part_rows, double eps,
                                        double momentum) {
  const int64_t width = statistics.width();
  if (width == 0) return;
  launch("batch_norm_statistics", batch_norm_statistics_kernel, lane_per_column(width),
         compute_stream(), statistics.data<float>(),
         Running{data_or_null<float>(running.mean), data_or_null<float>(running.variance),
                 data_or_null<float>(running.batches), static_cast<float>(momentum)},
         Parts{parts.data<float>(), parts.size(0) * part_rows, part_rows, width},
         static_cast<float>(eps));
}

void CudaBackend::batch_norm_relu_forward(Tensor& y, const Tensor& x, const Tensor& residual,
                                          const Tensor& statistics, const Tensor& weight,
                                          const Tensor& bias, Relu relu) {
  if (x.numel() == 0) return;
  for_cuda_float("batch_norm_relu", x.dtype(), [&]<class T>(T) {
    const Norm<T> norm = norm_of<T>(x, statistics, weight, bias, residual);
    launch("batch_norm_relu_forward", batch_norm_relu_forward_kernel<T>,
           thread_per_vector<T>(norm.rows, norm.width), compute_stream(), y.data<T>(), norm,
           relu == Relu::kYes);
  });
}

void CudaBackend::batch_norm_relu_sums(Tensor& sums, const Tensor& dy, const Tensor& x,
                                       const Tensor& y, const Tensor& statistics) {
  if (x.numel() == 0) return fill_zero(sums);  // no rows make no segments
  const cudaStream_t stream = compute_stream();
  const int64_t width = x.width(), segments = divide_up(x.rows(), segment_rows(x.rows()));
  Tensor partials = Tensor::empty(*this, {segments, 2 * width}, DType::kF32);
  for_cuda_float("batch_norm_relu", x.dtype(), [&]<class T>(T) {
    const SegmentTiles tiles = tiles_of<T>(x);
    launch("batch_norm_relu_sums", batch_norm_relu_sums_kernel<T>, segment_blocks<T, 2>(tiles),
           stream, partials.data<float>(), dy.data<T>(), data_or_null<T>(y),
           norm_of<T>(x, statistics, {}, {}, {}), tiles);
  });
  add_segments(stream, {{sums, Accumulate::kNo}}, partials, 2 * width);
}

void CudaBackend::batch_norm_relu_backward(Tensor& dx, Tensor& dresidual, const Tensor& dy,
                                           const Tensor& x, const Tensor& y,
                                           const Tensor& statistics, const Tensor& weight,
                                           const Tensor& sums, int64_t rows, Accumulate to_dx) {
  if (x.numel() == 0 || (!dx && !dresidual)) return;
  for_cuda_float("batch_norm_relu", x.dtype(), [&]<class T>(T) {
    const Norm<T> norm = norm_of<T>(x, statistics, weight, {}, {});
    launch("batch_norm_relu_backward", batch_norm_relu_backward_kernel<T>,
           thread_per_vector<T>(norm.rows, norm.width), compute_stream(), data_or_null<T>(dx),
           data_or_null<T>(dresidual), dy.data<T>(), data_or_null<T>(y), norm,
           data_or_null<float>(sums), sums ? 1.0f / static_cast<float>(rows) : 0.0f,
           to_dx == Accumulate::kYes);
  });
}

}  // namespace clip
