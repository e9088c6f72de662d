// Matrix products, and the bias on their forward side; column_sums.cu has its backward side.
#include "cuda/cublas_lt.h"
#include "cuda/cuda_backend.h"
#include "cuda/launch_shapes.h"

namespace clip {
namespace {

/// Rows of `width` numbers, `to_stride` and `from_stride` apart.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    copy_rows_kernel(T* to, const T* from, int64_t rows, int64_t width, int64_t to_stride,
                     int64_t from_stride) {
  const int64_t row = warp_row();
  if (row >= rows) return;
  for_row_vectors<T>(width, [=](int64_t column, int64_t left) {
    float values[kVector<T>];
    load_vector(values, from + row * from_stride + column, left);
    store_vector(to + row * to_stride + column, values, left);
  });
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    add_bias_kernel(T* y, const T* bias, int64_t rows, int64_t width) {
  const int64_t row = warp_row();
  if (row >= rows) return;
  for_row_vectors<T>(width, [=](int64_t column, int64_t left) {
    float values[kVector<T>];
    load_vector(values, bias + column, left);
    put_vector(y + row * width + column, values, left, true);
  });
}

/// BF16 rows start at multiples of this many numbers, 16 bytes: others cuBLASLt refuses or
/// multiplies without the tensor cores. F32 is taken as it is.
constexpr int64_t kRowUnit = 8;

bool needs_padding(const Tensor& matrix) {
  return matrix.dtype() == DType::kBF16 &&
         (matrix.width() % kRowUnit != 0 || reinterpret_cast<uintptr_t>(matrix.raw()) % 16 != 0);
}

/// Moves the numbers of a matrix between two row strides.
void copy_rows(const LtMatrix& to, const LtMatrix& from, cudaStream_t stream) {
  launch("matmul", copy_rows_kernel<__nv_bfloat16>, warp_per_row(from.rows), stream,
         static_cast<__nv_bfloat16*>(to.data), static_cast<const __nv_bfloat16*>(from.data),
         from.rows, from.columns, to.stride, from.stride);
}

/// A matrix for cuBLASLt: the tensor's own memory, or a padded copy's.
struct Operand {
  LtMatrix own;
  LtMatrix used;
  Tensor padded;  // undefined: `used` is `own`

  Operand(const Tensor& tensor, Transpose transpose)
      : own{tensor.raw(), tensor.dtype(), tensor.rows(), tensor.width(), tensor.width(), transpose},
        used(own) {
    if (!needs_padding(tensor)) return;
    used.stride = divide_up(own.columns, kRowUnit) * kRowUnit;
    padded = Tensor::empty(tensor.backend(), {own.rows, used.stride}, own.dtype);
    used.data = padded.raw();
  }
  void fill(cudaStream_t stream) const {
    if (padded) copy_rows(used, own, stream);
  }
  void write_back(cudaStream_t stream) const {
    if (padded) copy_rows(own, used, stream);
  }
};

}  // namespace

void CudaBackend::matmul(Tensor& c, const Tensor& a, Transpose transpose_a, const Tensor& b,
                         Transpose transpose_b, const MatmulOptions& options) {
  const int64_t k = transpose_a == Transpose::kNo ? a.width() : a.rows();
  if (c.numel() == 0) return;
  if (k == 0) {
    if (options.accumulate == Accumulate::kNo) fill_zero(c);
    return;
  }
  for (const Tensor* matrix : {static_cast<const Tensor*>(&c), &a, &b})
    for_cuda_float("matmul", matrix->dtype(), [](auto) {});
  const cudaStream_t stream = compute_stream();
  const DType common = a.dtype() == b.dtype() ? a.dtype() : DType::kBF16;
  const Tensor left = a.as_dtype(common), right = b.as_dtype(common);
  const Operand to(c, Transpose::kNo), first(left, transpose_a), second(right, transpose_b);
  first.fill(stream);
  second.fill(stream);
  if (options.accumulate == Accumulate::kYes) to.fill(stream);
  cublas_->multiply(to.used, first.used, second.used, static_cast<float>(options.alpha),
                    options.accumulate == Accumulate::kYes ? 1.0f : 0.0f, stream);
  to.write_back(stream);
}

void CudaBackend::add_bias(Tensor& y, const Tensor& bias) {
  if (y.numel() == 0) return;
  for_cuda_float("add_bias", y.dtype(), [&]<class T>(T) {
    launch("add_bias", add_bias_kernel<T>, warp_per_row(y.rows()), compute_stream(), y.data<T>(),
           bias.data<T>(), y.rows(), y.width());
  });
}

}  // namespace clip
