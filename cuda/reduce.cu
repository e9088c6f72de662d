// Sums over all elements, and what is done element by element.
#include <type_traits>

#include "cuda/cuda_backend.h"
#include "cuda/dynamic_shared.cuh"
#include "cuda/launch_shapes.h"

namespace clip {
namespace {

/// Elements of one block; also the segments whose sums are added in order.
constexpr int64_t kBlockElements = 64 * kSegmentRows;

enum class Term { kValue, kSquare };

/// partials [blocks]: the sums of kBlockElements elements each, in F64.
template <Term term, class T>
__global__ void __launch_bounds__(kBlockThreads)
    sum_blocks_kernel(double* partials, const T* x, int64_t count) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBlockElements;
  const int64_t last = first + kBlockElements < count ? first + kBlockElements : count;
  double total = 0;
  for (int64_t at = first + block_thread() * kVector<T>; at < last;
       at += kBlockThreads * kVector<T>) {
    float values[kVector<T>];
    load_vector(values, x + at, last - at);
    for (int i = 0; i < kVector<T>; ++i) {
      const auto value = static_cast<double>(values[i]);
      total += term == Term::kValue ? value : value * value;
    }
  }
  total = block_sum(total, dynamic_shared<double>());
  if (block_thread() == 0) partials[blockIdx.x] = total;
}

/// total (+)= sum of partials; one block.
template <class Total>
__global__ void __launch_bounds__(kBlockThreads)
    add_partials_kernel(Total* total, const double* partials, int64_t count, bool add) {
  double sum = 0;
  for (int64_t i = block_thread(); i < count; i += kBlockThreads) sum += partials[i];
  sum = block_sum(sum, dynamic_shared<double>());
  if (block_thread() == 0)
    *total = add ? *total + static_cast<Total>(sum) : static_cast<Total>(sum);
}

template <Term term, class Total>
void sum_all(Tensor& total, const Tensor& x, bool add, cudaStream_t stream) {
  constexpr int64_t kShared = kBlockWarps * sizeof(double);
  const int64_t count = divide_up(x.numel(), kBlockElements);
  Tensor partials = Tensor::empty(x.backend(), {count}, DType::kF64);
  if (count > 0) {
    for_cuda_float("sum", x.dtype(), [&]<class T>(T) {
      launch("sum", sum_blocks_kernel<term, T>, blocks(count, kShared), stream,
             partials.data<double>(), x.data<T>(), x.numel());
    });
  }
  launch("sum", add_partials_kernel<Total>, blocks(1, kShared), stream, total.data<Total>(),
         partials.data<double>(), count, add);
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads) add_kernel(T* y, const T* x, int64_t count) {
  const int64_t at = grid_thread() * kVector<T>;
  if (at >= count) return;
  float values[kVector<T>];
  load_vector(values, x + at, count - at);
  put_vector(y + at, values, count - at, true);
}

__device__ double wide(double x) { return x; }
template <class T>
__device__ double wide(T x) {
  return static_cast<double>(to_float(x));
}

template <class To, class From>
__global__ void __launch_bounds__(kBlockThreads)
    convert_kernel(To* to, const From* from, int64_t count) {
  const int64_t i = grid_thread();
  if (i >= count) return;
  if constexpr (std::is_same_v<To, double>) {
    to[i] = wide(from[i]);
  } else {
    assign(to[i], static_cast<float>(wide(from[i])));
  }
}

/// A NaN stays: the comparisons are false for it.
__global__ void clamp_kernel(float* x, float low, float high) {
  float value = *x;
  value = value < low ? low : value;
  *x = high < value ? high : value;
}

/// Calls body with a zero of the stored type; F64 is stored and converted, not computed with.
template <class Body>
void for_stored(DType dtype, const Body& body) {
  if (dtype == DType::kF64) {
    body(double{});
  } else {
    for_cuda_float("convert", dtype, body);
  }
}

}  // namespace

void CudaBackend::convert(Tensor& to, const Tensor& from) {
  if (from.numel() == 0) return;
  for_stored(to.dtype(), [&]<class To>(To) {
    for_stored(from.dtype(), [&]<class From>(From) {
      launch("convert", convert_kernel<To, From>, thread_per_item(from.numel()), compute_stream(),
             to.data<To>(), from.data<From>(), from.numel());
    });
  });
}

void CudaBackend::add(Tensor& y, const Tensor& x) {
  if (x.numel() == 0) return;
  for_cuda_float("add", y.dtype(), [&]<class T>(T) {
    launch("add", add_kernel<T>, thread_per_item(divide_up(x.numel(), kVector<T>)),
           compute_stream(), y.data<T>(), x.data<T>(), x.numel());
  });
}

void CudaBackend::sum(Tensor& total, const Tensor& x, Accumulate to_total) {
  sum_all<Term::kValue, float>(total, x, to_total == Accumulate::kYes, compute_stream());
}

void CudaBackend::sum_of_squares(Tensor& total, const Tensor& x) {
  sum_all<Term::kSquare, double>(total, x, false, compute_stream());
}

void CudaBackend::clamp(Tensor& x, double low, double high) {
  launch("clamp", clamp_kernel, LaunchShape{dim3(1), dim3(1)}, compute_stream(), x.data<float>(),
         low, high);
}

}  // namespace clip
