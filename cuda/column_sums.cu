#include "cuda/column_sums.cuh"
#include "cuda/cuda_backend.h"

namespace clip {
namespace {

struct Total {
  float* sums = nullptr;
  bool add = false;
};
struct Totals {
  Total of[3];

  /// Without an index that is known only at run time: it would move the struct to local memory.
  __device__ Total operator[](unsigned i) const { return i == 0 ? of[0] : i == 1 ? of[1] : of[2]; }
};

/// One lane for each column; each warp adds every eighth segment, then the warps' sums in order.
/// Grid (columns / 32, totals).
__global__ void __launch_bounds__(kBlockThreads)
    add_segments_kernel(Totals totals, const float* partials, int64_t segments, int64_t stride,
                        int64_t width) {
  const Total to = totals[blockIdx.y];
  if (to.sums == nullptr) return;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
  const float* from = partials + blockIdx.y * width + column;
  float total = 0;
  if (column < width) {
    for (int64_t segment = threadIdx.y; segment < segments; segment += kBlockWarps)
      total += from[segment * stride];
  }
  float* shared = dynamic_shared<float>();  // [kBlockWarps, 32]
  shared[block_thread()] = total;
  __syncthreads();
  if (threadIdx.y > 0 || column >= width) return;
  for (int warp = 1; warp < kBlockWarps; ++warp) total += shared[warp * kWarp + threadIdx.x];
  put(to.sums[column], total, to.add);
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    column_sums_kernel(float* partials, const T* x, int64_t rows, int64_t stride, int64_t width) {
  float* partial = partials + static_cast<int64_t>(blockIdx.y) * width;
  sum_segment<T, 1>(partial, {rows, width},
                    [=](float(&sums)[1][kVector<T>], int64_t row, int64_t column, int64_t left) {
                      float values[kVector<T>];
                      load_vector(values, x + row * stride + column, left);
                      for (int i = 0; i < kVector<T>; ++i) sums[0][i] += values[i];
                    });
}

}  // namespace

void add_segments(cudaStream_t stream, std::initializer_list<ColumnTotal> totals,
                  const Tensor& partials, int64_t width) {
  Totals kernel_totals;
  bool wanted = false;
  int count = 0;
  for (const ColumnTotal& total : totals) {
    kernel_totals.of[count++] = {data_or_null<float>(total.sums),
                                 total.to_sums == Accumulate::kYes};
    wanted = wanted || total.sums.defined();
  }
  if (!wanted || width == 0) return;
  LaunchShape shape = blocks(divide_up(width, kWarp), kBlockThreads * sizeof(float));
  shape.grid.y = static_cast<unsigned>(count);
  launch("add_segments", add_segments_kernel, shape, stream, kernel_totals, partials.data<float>(),
         partials.size(0), partials.width(), width);
}

Tensor partial_column_sums(cudaStream_t stream, const Tensor& x, int64_t rows, int64_t stride,
                           int64_t width) {
  Tensor partials = Tensor::empty(x.backend(), {segment_count(rows), width}, DType::kF32);
  if (partials.numel() == 0) return partials;
  for_cuda_float("column_sums", x.dtype(), [&]<class T>(T) {
    launch("column_sums", column_sums_kernel<T>, segment_blocks<T, 1>({rows, width}), stream,
           partials.data<float>(), x.data<T>(), rows, stride, width);
  });
  return partials;
}

void CudaBackend::column_sums(Tensor& sums, const Tensor& x, Accumulate accumulate) {
  const int64_t width = sums.numel();
  const cudaStream_t stream = compute_stream();
  const Tensor partials = partial_column_sums(stream, x, x.rows(), width, width);
  add_segments(stream, {{sums, accumulate}}, partials, width);
}

}  // namespace clip
