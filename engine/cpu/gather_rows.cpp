// Picked rows: class tokens, end-of-text tokens.
#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/segments.h"

namespace clip {

void CpuBackend::gather_rows_forward(Tensor& y, const Tensor& x, const Tensor& rows) {
  for_float("gather_rows", x.dtype(), [&]<class T>(T) {
    const int64_t width = x.width();
    T* out = y.data<T>();
    const T* in = x.data<T>();
    const int32_t* row_of = rows.data<int32_t>();
    parallel_for(rows.numel(), [=](int64_t m) {
      put_row(out + m * width, in + row_of[m] * width, width, Accumulate::kNo);
    });
  });
}

void CpuBackend::gather_rows_backward(Tensor& dx, const Tensor& dy, const Tensor& rows,
                                      Accumulate to_dx) {
  if (to_dx == Accumulate::kNo) fill_zero(dx);  // rows that nothing picked
  for_float("gather_rows", dx.dtype(), [&]<class T>(T) {
    const int64_t width = dx.width();
    T* out = dx.data<T>();
    const T* dys = dy.data<T>();
    const int32_t* row_of = rows.data<int32_t>();
    // No row is picked twice: tasks never meet.
    parallel_for(rows.numel(), [=](int64_t m) {
      put_row(out + row_of[m] * width, dys + m * width, width, to_dx);
    });
  });
}

}  // namespace clip
