// Layer norm, alone and fused with the residual sum before it. Forward keeps a row in one warp's
// registers, up to 2,048 numbers. Backward needs whole rows for two means and whole columns for three
// sums, so it runs twice over its input: a warp per row, then column_sums.cuh's segments, which also
// write dx.
#include "cuda/column_sums.cuh"
#include "cuda/cuda_backend.h"
#include "cuda/ptx.cuh"

namespace clip {
namespace {

/// Tensors [R, C] except weight and biases [C], mean and rstd [R]. Null: not wanted, or absent.
template <class T>
struct Forward {
  T *sum, *y;
  float *mean, *rstd;
  const T *residual, *x, *x_bias, *weight, *bias;
  float eps;
  int64_t rows, width;
};

/// x of a vector, or residual + (x + x_bias), stored in `sum` and rounded as it is stored there.
template <class T>
__device__ void load_input(float (&values)[kVector<T>], const Forward<T>& f, int64_t at,
                           int64_t column, int64_t left) {
  load_vector(values, f.x + at, left);
  if (f.residual == nullptr) return;
  float residual[kVector<T>], bias[kVector<T>] = {};
  load_vector(residual, f.residual + at, left);
  if (f.x_bias != nullptr) load_vector(bias, f.x_bias + column, left);
  for (int i = 0; i < kVector<T>; ++i) values[i] = rounded<T>(residual[i] + (values[i] + bias[i]));
  if (f.sum != nullptr) store_vector(f.sum + at, values, left);
}

/// One warp for each row, of at most 32 kVectors vectors.
template <class T, int kVectors>
__global__ void __launch_bounds__(kBlockThreads) layer_norm_forward_kernel(Forward<T> f) {
  constexpr int kCount = kVector<T>;
  const int64_t row = warp_row();
  if (row >= f.rows) return;
  const auto column_of = [](int j) {
    return static_cast<int64_t>(j * kWarp + static_cast<int>(threadIdx.x)) * kCount;
  };
  float values[kVectors][kCount];
  float total = 0;
  for (int j = 0; j < kVectors; ++j) {
    const int64_t column = column_of(j);
    load_input(values[j], f, row * f.width + column, column, f.width - column);
    for (int i = 0; i < kCount; ++i) total += values[j][i];
  }
  const float mean = warp_sum(total) / static_cast<float>(f.width);
  float squares = 0;
  for (int j = 0; j < kVectors; ++j) {
    for (int i = 0; i < kCount; ++i) {
      const float deviation = column_of(j) + i < f.width ? values[j][i] - mean : 0.0f;
      squares += deviation * deviation;
    }
  }
  const float variance = warp_sum(squares) / static_cast<float>(f.width);
  const float rstd = 1.0f / sqrtf(variance + f.eps);
  for (int j = 0; j < kVectors; ++j) {
    const int64_t column = column_of(j), left = f.width - column;
    float weight[kCount], bias[kCount];
    load_vector(weight, f.weight + column, left);
    load_vector(bias, f.bias + column, left);
    for (int i = 0; i < kCount; ++i)
      values[j][i] = (values[j][i] - mean) * rstd * weight[i] + bias[i];
    store_vector(f.y + row * f.width + column, values[j], left);
  }
  if (threadIdx.x > 0) return;
  if (f.mean != nullptr) f.mean[row] = mean;
  if (f.rstd != nullptr) f.rstd[row] = rstd;
}

/// One warp for each row, of any width: the row is read three times, as no warp's registers hold it.
template <class T>
__global__ void __launch_bounds__(kBlockThreads) layer_norm_forward_wide_kernel(Forward<T> f) {
  constexpr int kCount = kVector<T>;
  const int64_t row = warp_row(), start = row * f.width;
  if (row >= f.rows) return;
  Forward<T> read = f;
  read.sum = nullptr;  // written in the last pass, so that it may be what is read
  float total = 0;
  for_row_vectors<T>(f.width, [&](int64_t column, int64_t left) {
    float values[kCount];
    load_input(values, read, start + column, column, left);
    for (int i = 0; i < kCount; ++i) total += values[i];
  });
  const float mean = warp_sum(total) / static_cast<float>(f.width);
  float squares = 0;
  for_row_vectors<T>(f.width, [&](int64_t column, int64_t left) {
    float values[kCount];
    load_input(values, read, start + column, column, left);
    for (int i = 0; i < kCount; ++i) {
      const float deviation = i < left ? values[i] - mean : 0.0f;
      squares += deviation * deviation;
    }
  });
  const float variance = warp_sum(squares) / static_cast<float>(f.width);
  const float rstd = 1.0f / sqrtf(variance + f.eps);
  for_row_vectors<T>(f.width, [&](int64_t column, int64_t left) {
    float values[kCount], weight[kCount], bias[kCount];
    load_input(values, f, start + column, column, left);
    load_vector(weight, f.weight + column, left);
    load_vector(bias, f.bias + column, left);
    for (int i = 0; i < kCount; ++i) values[i] = (values[i] - mean) * rstd * weight[i] + bias[i];
    store_vector(f.y + start + column, values, left);
  });
  if (threadIdx.x > 0) return;
  if (f.mean != nullptr) f.mean[row] = mean;
  if (f.rstd != nullptr) f.rstd[row] = rstd;
}

/// Doubles the vectors per lane until the row fits.
template <class T, int kVectors = 1>
void launch_forward(const Forward<T>& f, cudaStream_t stream) {
  constexpr int kMostNumbers = 64;  // per lane: more do not fit its registers
  if (f.width <= kVectors * kWarp * kVector<T>) {
    launch("layer_norm_forward", layer_norm_forward_kernel<T, kVectors>, warp_per_row(f.rows),
           stream, f);
  } else if constexpr (2 * kVectors * kVector<T> <= kMostNumbers) {
    launch_forward<T, 2 * kVectors>(f, stream);
  } else {
    launch("layer_norm_forward_wide", layer_norm_forward_wide_kernel<T>, warp_per_row(f.rows),
           stream, f);
  }
}

/// What the two forward kernels share. residual absent: plain layer norm of x.
void forward(Tensor& sum, Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& residual,
             const Tensor& x, const Tensor& x_bias, const Tensor& weight, const Tensor& bias,
             double eps, cudaStream_t stream) {
  if (x.numel() == 0) return;
  for_cuda_float("layer_norm", x.dtype(), [&]<class T>(T) {
    launch_forward<T>(
        {data_or_null<T>(sum), y.data<T>(), data_or_null<float>(mean), data_or_null<float>(rstd),
         data_or_null<T>(residual), x.data<T>(), data_or_null<T>(x_bias), weight.data<T>(),
         bias.data<T>(), static_cast<float>(eps), x.rows(), x.width()},
        stream);
  });
}

/// base: what dx starts from, null for zero; it may be dx. row_means [R, 2]: the means over a row
/// of g and of g x^, where g = dy weight and x^ = (x - mean) rstd.
template <class T>
struct Backward {
  T* dx;
  float *partials, *row_means;
  const T *base, *dy, *x, *weight;
  const float *mean, *rstd;
  int64_t rows, width;
};

template <class T>
__global__ void __launch_bounds__(kBlockThreads) layer_norm_row_means_kernel(Backward<T> b) {
  const int64_t row = warp_row();
  if (row >= b.rows) return;
  const float mean = b.mean[row], rstd = b.rstd[row];
  float g_total = 0, g_xhat_total = 0;
  for_row_vectors<T>(b.width, [&](int64_t column, int64_t left) {
    float dy[kVector<T>], x[kVector<T>], weight[kVector<T>];
    load_vector(dy, b.dy + row * b.width + column, left);
    load_vector(x, b.x + row * b.width + column, left);
    load_vector(weight, b.weight + column, left);
    for (int i = 0; i < kVector<T>; ++i) {
      const float g = dy[i] * weight[i];  // 0 past the row's end
      g_total += g;
      g_xhat_total += g * ((x[i] - mean) * rstd);
    }
  });
  g_total = warp_sum(g_total);
  g_xhat_total = warp_sum(g_xhat_total);
  if (threadIdx.x > 0) return;
  b.row_means[2 * row] = g_total / static_cast<float>(b.width);
  b.row_means[2 * row + 1] = g_xhat_total / static_cast<float>(b.width);
}

/// Adds one row to the column sums of dy x^, of dy, and, where row means are there, of
/// dx = base + rstd (g - mean(g) - x^ mean(g x^)), which is written too.
template <class T>
__device__ void backward_row(float (&sums)[3][kVector<T>], const Backward<T>& b, int64_t row,
                             int64_t column, int64_t left) {
  constexpr int kCount = kVector<T>;
  const int64_t at = row * b.width + column;
  const float mean = b.mean[row], rstd = b.rstd[row];
  float dy[kCount], xhat[kCount];
  load_vector(dy, b.dy + at, left);
  load_vector(xhat, b.x + at, left);
  for (int i = 0; i < kCount; ++i) {
    xhat[i] = (xhat[i] - mean) * rstd;
    sums[0][i] += dy[i] * xhat[i];
    sums[1][i] += dy[i];
  }
  if (b.row_means == nullptr) return;
  const float mean_g = b.row_means[2 * row], mean_g_xhat = b.row_means[2 * row + 1];
  float weight[kCount], dx[kCount] = {};
  load_vector(weight, b.weight + column, left);
  if (b.base != nullptr) load_vector(dx, b.base + at, left);
  for (int i = 0; i < kCount; ++i) {
    dx[i] += rstd * (dy[i] * weight[i] - mean_g - xhat[i] * mean_g_xhat);
    sums[2][i] += dx[i];
  }
  if (b.dx == nullptr) return;
  // Here nvcc would take store_vector's one store apart.
  if (left >= kCount && is_aligned(b.dx + at))
    ptx::store_16(b.dx + at, packed<T>(dx));
  else
    store_vector(b.dx + at, dx, left);
}

/// Three blocks on a processor at once: the loads of one hide behind the sums of the others.
template <class T>
__global__ void __launch_bounds__(kBlockThreads, 3) layer_norm_backward_kernel(Backward<T> b) {
  float* partial = b.partials + static_cast<int64_t>(blockIdx.y) * 3 * b.width;
  sum_segment<T, 3>(partial, {b.rows, b.width},
                    [&b](float(&sums)[3][kVector<T>], int64_t row, int64_t column, int64_t left) {
                      backward_row(sums, b, row, column, left);
                    });
}

/// What the two backward kernels share. base [R, C]: what dx starts from, or undefined for zero;
/// sums of dx's columns go to dx_sums.
void backward(Tensor& dx, const ColumnTotal& dx_sums, const ColumnTotal& dweight,
              const ColumnTotal& dbias, const Tensor& base, const Tensor& dy, const Tensor& x,
              const Tensor& mean, const Tensor& rstd, const Tensor& weight, cudaStream_t stream) {
  const int64_t rows = x.rows(), width = x.width();
  Backend& backend = x.backend();
  Tensor partials = Tensor::empty(backend, {segment_count(rows), 3 * width}, DType::kF32);
  Tensor row_means;
  if (dx || dx_sums.sums) row_means = Tensor::empty(backend, {rows, 2}, DType::kF32);
  if (x.numel() > 0) {
    for_cuda_float("layer_norm", x.dtype(), [&]<class T>(T) {
      const Backward<T> b{data_or_null<T>(dx),
                          partials.data<float>(),
                          data_or_null<float>(row_means),
                          data_or_null<T>(base),
                          dy.data<T>(),
                          x.data<T>(),
                          weight.data<T>(),
                          mean.data<float>(),
                          rstd.data<float>(),
                          rows,
                          width};
      if (row_means)
        launch("layer_norm_row_means", layer_norm_row_means_kernel<T>, warp_per_row(rows), stream,
               b);
      launch("layer_norm_backward", layer_norm_backward_kernel<T>,
             segment_blocks<T, 3>({rows, width}), stream, b);
    });
  }
  add_segments(stream, {dweight, dbias, dx_sums}, partials, width);
}

}  // namespace

void CudaBackend::layer_norm_forward(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x,
                                     const Tensor& weight, const Tensor& bias, double eps) {
  Tensor no_sum;
  forward(no_sum, y, mean, rstd, {}, x, {}, weight, bias, eps, compute_stream());
}

void CudaBackend::layer_norm_backward(Tensor& dx, Tensor& dweight, Tensor& dbias, const Tensor& dy,
                                      const Tensor& x, const Tensor& mean, const Tensor& rstd,
                                      const Tensor& weight, Accumulate to_dx, Accumulate to_dweight,
                                      Accumulate to_dbias) {
  Tensor no_sums;
  const Tensor base = to_dx == Accumulate::kYes ? dx : Tensor();
  backward(dx, {no_sums, Accumulate::kNo}, {dweight, to_dweight}, {dbias, to_dbias}, base, dy, x,
           mean, rstd, weight, compute_stream());
}

void CudaBackend::bias_residual_layer_norm_forward(Tensor& sum, Tensor& y, Tensor& mean,
                                                   Tensor& rstd, const Tensor& residual,
                                                   const Tensor& x, const Tensor& x_bias,
                                                   const Tensor& weight, const Tensor& bias,
                                                   double eps) {
  forward(sum, y, mean, rstd, residual, x, x_bias, weight, bias, eps, compute_stream());
}

void CudaBackend::bias_residual_layer_norm_backward(
    Tensor& dtotal, Tensor& dx_bias, Tensor& dweight, Tensor& dbias, const Tensor& dsum,
    const Tensor& dy, const Tensor& sum, const Tensor& mean, const Tensor& rstd,
    const Tensor& weight, Accumulate to_dx_bias, Accumulate to_dweight, Accumulate to_dbias) {
  backward(dtotal, {dx_bias, to_dx_bias}, {dweight, to_dweight}, {dbias, to_dbias}, dsum, dy, sum,
           mean, rstd, weight, compute_stream());
}

}  // namespace clip
