// What attention's two paths share. attention_f32.cu computes any head size in F32 arithmetic;
// attention_mma.cu computes BF16 heads of 64 on the tensor cores; attention.cu chooses.
//
// A head of a sequence is one task. Of its two sides, a block owns rows of one (queries, or keys for
// dk and dv) and passes by the rows of the other, so that every output row has one owner and one
// order of summation.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/device_math.cuh"
#include "engine/backend.h"

namespace clip {

/// q, k, v, y or a gradient of one: head h of row r starts at data + r * stride + h * head_size.
template <class T>
struct HeadMatrix {
  T* data;
  int64_t stride;
};

struct AttentionShape {
  const int32_t* query_offsets;  ///< [sequences + 1], on the device
  const int32_t* key_offsets;
  int64_t sequences, heads, head_size;
  int64_t total_queries;          ///< length of a head's row of log_sum_exp
  int64_t max_queries, max_keys;  ///< of one sequence
  bool causal;
  float scale;  ///< 1 / sqrt(head_size)
};

template <class T>
struct AttentionForward {
  HeadMatrix<T> y;
  float* log_sum_exp;  ///< [heads, total_queries]
  HeadMatrix<const T> q, k, v;
  AttentionShape shape;
};

template <class T>
struct AttentionBackward {
  HeadMatrix<T> dq, dk, dv;
  HeadMatrix<const T> dy, y;
  const float* log_sum_exp;
  HeadMatrix<const T> q, k, v;
  AttentionShape shape;
  bool add_to_dq, add_to_dkv;
};

/// One head of one sequence.
struct AttentionTask {
  int head, first_query, first_key;  // in I32, as the offsets are, to save registers
  int queries, keys;

  /// The tasks are numbered head by head within a sequence.
  __device__ AttentionTask(const AttentionShape& shape, int64_t index) {
    const int64_t sequence = index / shape.heads;
    head = static_cast<int>(index % shape.heads);
    first_query = shape.query_offsets[sequence];
    first_key = shape.key_offsets[sequence];
    queries = shape.query_offsets[sequence + 1] - first_query;
    keys = shape.key_offsets[sequence + 1] - first_key;
  }
};

/// The rows of one task in a HeadMatrix.
template <class T>
struct HeadRows {
  T* first;
  int64_t stride;
  int count;

  __device__ T* row(int r) const { return first + r * stride; }
};

template <class T>
__device__ HeadRows<T> query_rows(const HeadMatrix<T>& matrix, const AttentionTask& task,
                                  const AttentionShape& shape) {
  return {matrix.data + task.first_query * matrix.stride + task.head * shape.head_size,
          matrix.stride, task.queries};
}
template <class T>
__device__ HeadRows<T> key_rows(const HeadMatrix<T>& matrix, const AttentionTask& task,
                                const AttentionShape& shape) {
  return {matrix.data + task.first_key * matrix.stride + task.head * shape.head_size, matrix.stride,
          task.keys};
}

/// T is float or __nv_bfloat16.
template <class T>
void attention_forward_f32(const AttentionForward<T>& arguments, cudaStream_t stream);
/// delta [heads, total_queries] is scratch memory.
template <class T>
void attention_backward_f32(const AttentionBackward<T>& arguments, float* delta,
                            cudaStream_t stream);

/// Whether the tensor cores' kernels can take these arguments: heads of 64, 16-byte aligned rows,
/// sequences whose heads fit the shared memory of a block.
bool attention_mma_takes(const AttentionForward<__nv_bfloat16>& arguments);
bool attention_mma_takes(const AttentionBackward<__nv_bfloat16>& arguments);
void attention_forward_mma(const AttentionForward<__nv_bfloat16>& arguments, cudaStream_t stream);
void attention_backward_mma(const AttentionBackward<__nv_bfloat16>& arguments, cudaStream_t stream);

}  // namespace clip
