// Rows to unit length. Embeddings are F32 in every precision. Products are added in F64, as on the
// CPU: neither the squares nor the products of long rows leave the range.
#include "cuda/cuda_backend.h"
#include "cuda/launch_shapes.h"

namespace clip {
namespace {

constexpr double kSmallestNorm = 1e-12;
constexpr float kLargestInverse = static_cast<float>(1.0 / kSmallestNorm);

/// The inner product of two rows, in every lane of the warp.
__device__ double row_product(const float* a, const float* b, int64_t width) {
  double total = 0;
  for_row_vectors<float>(width, [&](int64_t column, int64_t left) {
    float x[kVector<float>], y[kVector<float>];
    load_vector(x, a + column, left);
    load_vector(y, b + column, left);
    for (int i = 0; i < kVector<float>; ++i)
      total += static_cast<double>(x[i]) * static_cast<double>(y[i]);
  });
  return warp_sum(total);
}

__global__ void __launch_bounds__(kBlockThreads)
    l2_normalize_forward_kernel(float* y, float* inverse_norm, const float* x, int64_t rows,
                                int64_t width) {
  const int64_t row = warp_row();
  if (row >= rows) return;
  const float* x_row = x + row * width;
  const double norm = sqrt(row_product(x_row, x_row, width));
  // A NaN must reach y: the comparison is false for it.
  const auto inverse = static_cast<float>(1.0 / (norm < kSmallestNorm ? kSmallestNorm : norm));
  for_row_vectors<float>(width, [=](int64_t column, int64_t left) {
    float values[kVector<float>];
    load_vector(values, x_row + column, left);
    for (float& value : values) value *= inverse;
    store_vector(y + row * width + column, values, left);
  });
  if (threadIdx.x == 0 && inverse_norm != nullptr) inverse_norm[row] = inverse;
}

__global__ void __launch_bounds__(kBlockThreads)
    l2_normalize_backward_kernel(float* dx, const float* dy, const float* y,
                                 const float* inverse_norm, bool add, int64_t rows, int64_t width) {
  const int64_t row = warp_row();
  if (row >= rows) return;
  const float *dy_row = dy + row * width, *y_row = y + row * width;
  const float inverse = inverse_norm[row];
  const double product = row_product(y_row, dy_row, width);
  // A clamped norm is a constant: the row is only scaled.
  const float along = inverse == kLargestInverse ? 0.0f : static_cast<float>(product);
  for_row_vectors<float>(width, [=](int64_t column, int64_t left) {
    float gradient[kVector<float>], unit[kVector<float>];
    load_vector(gradient, dy_row + column, left);
    load_vector(unit, y_row + column, left);
    for (int i = 0; i < kVector<float>; ++i)
      gradient[i] = inverse * (gradient[i] - unit[i] * along);
    put_vector(dx + row * width + column, gradient, left, add);
  });
}

}  // namespace

void CudaBackend::l2_normalize_forward(Tensor& y, Tensor& inverse_norm, const Tensor& x) {
  if (x.numel() == 0) return;
  launch("l2_normalize_forward", l2_normalize_forward_kernel, warp_per_row(x.rows()),
         compute_stream(), y.data<float>(), data_or_null<float>(inverse_norm), x.data<float>(),
         x.rows(), x.width());
}

void CudaBackend::l2_normalize_backward(Tensor& dx, const Tensor& dy, const Tensor& y,
                                        const Tensor& inverse_norm, Accumulate to_dx) {
  if (y.numel() == 0) return;
  launch("l2_normalize_backward", l2_normalize_backward_kernel, warp_per_row(y.rows()),
         compute_stream(), dx.data<float>(), dy.data<float>(), y.data<float>(),
         inverse_norm.data<float>(), to_dx == Accumulate::kYes, y.rows(), y.width());
}

}  // namespace clip
