// Picked rows: class tokens, end-of-text tokens.
#include "cuda/cuda_backend.h"
#include "cuda/launch_shapes.h"

namespace clip {
namespace {

template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    gather_rows_forward_kernel(T* y, const T* x, const int32_t* rows, int64_t count,
                               int64_t width) {
  const int64_t m = warp_row();
  if (m >= count) return;
  const T* from = x + rows[m] * width;
  for_row_vectors<T>(width, [=](int64_t column, int64_t left) {
    float values[kVector<T>];
    load_vector(values, from + column, left);
    store_vector(y + m * width + column, values, left);
  });
}

/// No row is picked twice: warps never meet.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    gather_rows_backward_kernel(T* dx, const T* dy, const int32_t* rows, bool add, int64_t count,
                                int64_t width) {
  const int64_t m = warp_row();
  if (m >= count) return;
  T* to = dx + rows[m] * width;
  for_row_vectors<T>(width, [=](int64_t column, int64_t left) {
    float values[kVector<T>];
    load_vector(values, dy + m * width + column, left);
    put_vector(to + column, values, left, add);
  });
}

}  // namespace

void CudaBackend::gather_rows_forward(Tensor& y, const Tensor& x, const Tensor& rows) {
  if (y.numel() == 0) return;
  for_cuda_float("gather_rows", x.dtype(), [&]<class T>(T) {
    launch("gather_rows_forward", gather_rows_forward_kernel<T>, warp_per_row(rows.numel()),
           compute_stream(), y.data<T>(), x.data<T>(), rows.data<int32_t>(), rows.numel(),
           x.width());
  });
}

void CudaBackend::gather_rows_backward(Tensor& dx, const Tensor& dy, const Tensor& rows,
                                       Accumulate to_dx) {
  if (to_dx == Accumulate::kNo) fill_zero(dx);  // rows that nothing picked
  if (dy.numel() == 0) return;
  for_cuda_float("gather_rows", dx.dtype(), [&]<class T>(T) {
    launch("gather_rows_backward", gather_rows_backward_kernel<T>, warp_per_row(rows.numel()),
           compute_stream(), dx.data<T>(), dy.data<T>(), rows.data<int32_t>(),
           to_dx == Accumulate::kYes, rows.numel(), dx.width());
  });
}

}  // namespace clip
