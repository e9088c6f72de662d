// Attention on the GPU: what the kernels see of the tensors, and which of the two paths runs.
#include <cmath>
#include <type_traits>

#include "cuda/attention.cuh"
#include "cuda/cuda_backend.h"

namespace clip {
namespace {

template <class T>
HeadMatrix<const T> view(const Columns& columns) {
  return {columns.matrix.data<T>() + columns.first, columns.matrix.width()};
}
template <class T>
HeadMatrix<T> view(Columns& columns) {
  return {columns.matrix.data<T>() + columns.first, columns.matrix.width()};
}
template <class T>
HeadMatrix<T> view(Tensor& tensor) {
  return {tensor.data<T>(), tensor.width()};
}
template <class T>
HeadMatrix<const T> view(const Tensor& tensor) {
  return {tensor.data<T>(), tensor.width()};
}

AttentionShape shape_of(const Columns& q, const Tensor& log_sum_exp, const Sequences& sequences,
                        const AttentionOptions& options) {
  const int64_t head_size = q.count / options.heads;
  return {.query_offsets = sequences.query_offsets.data<int32_t>(),
          .key_offsets = sequences.key_offsets.data<int32_t>(),
          .sequences = sequences.query_offsets.numel() - 1,
          .heads = options.heads,
          .head_size = head_size,
          .total_queries = log_sum_exp.width(),
          .max_queries = sequences.max_queries,
          .max_keys = sequences.max_keys,
          .causal = options.causal == Causal::kYes,
          .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_size)))};
}

}  // namespace

void CudaBackend::attention_forward(Tensor& y, Tensor& log_sum_exp, const Columns& q,
                                    const Columns& k, const Columns& v, const Sequences& sequences,
                                    const AttentionOptions& options) {
  for_cuda_float("attention", y.dtype(), [&]<class T>(T) {
    const cudaStream_t stream = compute_stream();
    const AttentionForward<T> arguments{.y = view<T>(y),
                                        .log_sum_exp = log_sum_exp.data<float>(),
                                        .q = view<T>(q),
                                        .k = view<T>(k),
                                        .v = view<T>(v),
                                        .shape = shape_of(q, log_sum_exp, sequences, options)};
    if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      if (attention_mma_takes(arguments)) return attention_forward_mma(arguments, stream);
    }
    attention_forward_f32(arguments, stream);
  });
}

void CudaBackend::attention_backward(Columns& dq, Columns& dk, Columns& dv, const Tensor& dy,
                                     const Tensor& y, const Tensor& log_sum_exp, const Columns& q,
                                     const Columns& k, const Columns& v, const Sequences& sequences,
                                     const AttentionOptions& options, Accumulate to_dq,
                                     Accumulate to_dkv) {
  for_cuda_float("attention", y.dtype(), [&]<class T>(T) {
    const cudaStream_t stream = compute_stream();
    const AttentionBackward<T> arguments{.dq = view<T>(dq),
                                         .dk = view<T>(dk),
                                         .dv = view<T>(dv),
                                         .dy = view<T>(dy),
                                         .y = view<T>(y),
                                         .log_sum_exp = log_sum_exp.data<float>(),
                                         .q = view<T>(q),
                                         .k = view<T>(k),
                                         .v = view<T>(v),
                                         .shape = shape_of(q, log_sum_exp, sequences, options),
                                         .add_to_dq = to_dq == Accumulate::kYes,
                                         .add_to_dkv = to_dkv == Accumulate::kYes};
    if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      if (attention_mma_takes(arguments)) return attention_backward_mma(arguments, stream);
    }
    Tensor delta = Tensor::empty(*this, log_sum_exp.shape(), DType::kF32);
    attention_backward_f32(arguments, delta.data<float>(), stream);
  });
}

}  // namespace clip
