// gelu(x + bias). The formulas are in engine/scalar_math.h; here they run over rows.
#include "cuda/column_sums.cuh"
#include "cuda/cuda_backend.h"
#include "engine/scalar_math.h"

namespace clip {
namespace {

template <Gelu kind, class T>
__global__ void __launch_bounds__(kBlockThreads)
    bias_gelu_forward_kernel(T* y, const T* x, const T* bias, int64_t rows, int64_t width) {
  const int64_t row = warp_row();
  if (row >= rows) return;
  for_row_vectors<T>(width, [=](int64_t column, int64_t left) {
    float values[kVector<T>], added[kVector<T>];
    load_vector(values, x + row * width + column, left);
    load_vector(added, bias + column, left);
    for (int i = 0; i < kVector<T>; ++i) values[i] = gelu<kind>(values[i] + added[i]);
    store_vector(y + row * width + column, values, left);
  });
}

/// dx (+)= dy gelu'(x + bias), and the sums of that gradient's columns. dx null: not wanted; it may
/// be dy.
template <Gelu kind, class T>
__global__ void __launch_bounds__(kBlockThreads)
    bias_gelu_backward_kernel(T* dx, float* partials, const T* dy, const T* x, const T* bias,
                              bool add_to_dx, int64_t rows, int64_t width) {
  float* partial = partials + static_cast<int64_t>(blockIdx.y) * width;
  sum_segment<T, 1>(partial, {rows, width},
                    [=](float(&sums)[1][kVector<T>], int64_t row, int64_t column, int64_t left) {
                      const int64_t at = row * width + column;
                      float gradient[kVector<T>], values[kVector<T>], added[kVector<T>];
                      load_vector(gradient, dy + at, left);
                      load_vector(values, x + at, left);
                      load_vector(added, bias + column, left);
                      for (int i = 0; i < kVector<T>; ++i) {
                        gradient[i] *= gelu_derivative<kind>(values[i] + added[i]);
                        sums[0][i] += gradient[i];
                      }
                      if (dx != nullptr) put_vector(dx + at, gradient, left, add_to_dx);
                    });
}

}  // namespace

void CudaBackend::bias_gelu_forward(Tensor& y, const Tensor& x, const Tensor& bias, Gelu kind) {
  if (x.numel() == 0) return;
  for_cuda_float("bias_gelu", x.dtype(), [&]<class T>(T) {
    const auto kernel = kind == Gelu::kQuick ? bias_gelu_forward_kernel<Gelu::kQuick, T>
                                             : bias_gelu_forward_kernel<Gelu::kErf, T>;
    launch("bias_gelu_forward", kernel, warp_per_row(x.rows()), compute_stream(), y.data<T>(),
           x.data<T>(), bias.data<T>(), x.rows(), x.width());
  });
}

void CudaBackend::bias_gelu_backward(Tensor& dx, Tensor& dbias, const Tensor& dy, const Tensor& x,
                                     const Tensor& bias, Gelu kind, Accumulate to_dx,
                                     Accumulate to_dbias) {
  const int64_t rows = x.rows(), width = x.width();
  const cudaStream_t stream = compute_stream();
  Tensor partials = Tensor::empty(*this, {segment_count(rows), width}, DType::kF32);
  if (x.numel() > 0) {
    for_cuda_float("bias_gelu", x.dtype(), [&]<class T>(T) {
      const auto kernel = kind == Gelu::kQuick ? bias_gelu_backward_kernel<Gelu::kQuick, T>
                                               : bias_gelu_backward_kernel<Gelu::kErf, T>;
      launch("bias_gelu_backward", kernel, segment_blocks<T, 1>({rows, width}), stream,
             data_or_null<T>(dx), partials.data<float>(), dy.data<T>(), x.data<T>(), bias.data<T>(),
             to_dx == Accumulate::kYes, rows, width);
    });
  }
  add_segments(stream, {{dbias, to_dbias}}, partials, width);
}

}  // namespace clip
