// Attention in F32 arithmetic, for F32 and for BF16 that the tensor cores' kernels do not take: any
// head size, any length. A block owns 32 rows of one side and up to 128 columns of their output;
// the other side's rows pass by 32 at a time, one for each lane of a warp, staged in shared memory
// 32 columns at a time.
#include <cmath>

#include "cuda/attention.cuh"
#include "cuda/dynamic_shared.cuh"
#include "cuda/launch_shapes.h"

namespace clip {
namespace {

constexpr int kTile = 32;  // rows of either side, and columns staged at once
constexpr int kWarpRows = kTile / kBlockWarps;
constexpr int kPieces = 4;  // times kTile: columns of output that one block computes

// One column more than used: lanes that read one column of 32 rows then meet 32 different banks.
using Staged = float[kTile][kTile + 1];

struct SharedTiles {
  Staged own, other;
  /// [own row][other row]; each warp writes and reads its own rows.
  float weights[2][kTile][kTile];
};

/// Where a thread stands in its block's work.
struct Place {
  int lane = static_cast<int>(threadIdx.x);
  int warp_row = static_cast<int>(threadIdx.y) * kWarpRows;  ///< its warp's first row in the tile
  int first_row = static_cast<int>(blockIdx.y) * kTile;      ///< the block's first own row
  int first_column = static_cast<int>(blockIdx.z) * kPieces * kTile;

  __device__ int row(int i) const { return first_row + warp_row + i; }
};

/// A tile of 32 rows and 32 columns, zero outside the matrix.
template <class T>
__device__ void stage(Staged& tile, const HeadRows<T>& from, int first_row, int first_column,
                      int columns) {
  const int column = static_cast<int>(threadIdx.x);
  for (int r = static_cast<int>(threadIdx.y); r < kTile; r += kBlockWarps) {
    const bool inside = first_row + r < from.count && first_column + column < columns;
    tile[r][column] = inside ? to_float(from.row(first_row + r)[first_column + column]) : 0.0f;
  }
}

/// products[i] = the warp's own row i times the lane's other row.
template <class T>
__device__ void multiply_rows(float (&products)[kWarpRows], SharedTiles& shared, const Place& place,
                              const HeadRows<T>& own, const HeadRows<T>& other, int first_other,
                              int columns) {
  for (float& product : products) product = 0;
  for (int first = 0; first < columns; first += kTile) {
    __syncthreads();  // all warps are done with what was staged before
    stage(shared.own, own, place.first_row, first, columns);
    stage(shared.other, other, first_other, first, columns);
    __syncthreads();
#pragma unroll 4
    for (int c = 0; c < kTile; ++c) {
      const float value = shared.other[place.lane][c];
      for (int i = 0; i < kWarpRows; ++i) products[i] += shared.own[place.warp_row + i][c] * value;
    }
  }
}

/// Columns first_column + 32 piece + lane of the warp's own rows.
using Sums = float[kPieces][kWarpRows];

/// sums += weights times the other side's rows first_other ... first_other + 31.
template <class T>
__device__ void add_weighted_rows(Sums& sums, SharedTiles& shared, const Place& place,
                                  const float (&weights)[kTile][kTile], const HeadRows<T>& other,
                                  int first_other, int columns) {
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    const int first = place.first_column + piece * kTile;
    if (first < columns) {
      __syncthreads();  // as above; it also lets lanes see each other's weights
      stage(shared.other, other, first_other, first, columns);
      __syncthreads();
#pragma unroll 4
      for (int j = 0; j < kTile; ++j) {
        const float value = shared.other[j][place.lane];
        for (int i = 0; i < kWarpRows; ++i)
          sums[piece][i] += weights[place.warp_row + i][j] * value;
      }
    }
  }
}

/// to (+)= factors[i] times row i of sums
template <class T>
__device__ void store_rows(const HeadRows<T>& to, const Sums& sums, const Place& place,
                           const float (&factors)[kWarpRows], int columns, bool add) {
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    const int column = place.first_column + piece * kTile + place.lane;
    for (int i = 0; i < kWarpRows; ++i) {
      if (column < columns && place.row(i) < to.count) {
        put(to.row(place.row(i))[column], factors[i] * sums[piece][i], add);
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads, 2) forward_kernel(const AttentionForward<T> a) {
  SharedTiles& shared = *dynamic_shared<SharedTiles>();
  const AttentionTask task(a.shape, blockIdx.x);
  const Place place;
  if (place.first_row >= task.queries) return;
  const int columns = static_cast<int>(a.shape.head_size);
  const HeadRows<const T> q = query_rows(a.q, task, a.shape), k = key_rows(a.k, task, a.shape),
                          v = key_rows(a.v, task, a.shape);
  const int last = a.shape.causal ? min(task.keys, place.first_row + kTile) : task.keys;
  Sums sums = {};
  float maximum[kWarpRows], total[kWarpRows] = {};
  for (float& m : maximum) m = -INFINITY;

  for (int first = 0; first < last; first += kTile) {
    float scores[kWarpRows];
    multiply_rows(scores, shared, place, q, k, first, columns);
    const int key = first + place.lane;
    for (int i = 0; i < kWarpRows; ++i) {
      const bool visible = key < task.keys && (!a.shape.causal || key <= place.row(i));
      const float score = visible ? scores[i] * a.shape.scale : -INFINITY;
      const float larger = fmaxf(maximum[i], warp_max(score));
      // Finite: the first step holds key 0, which all rows see.
      const float correction = expf(maximum[i] - larger), p = expf(score - larger);
      maximum[i] = larger;
      total[i] = total[i] * correction + warp_sum(p);
      for (int piece = 0; piece < kPieces; ++piece) sums[piece][i] *= correction;
      shared.weights[0][place.warp_row + i][place.lane] = p;
    }
    add_weighted_rows(sums, shared, place, shared.weights[0], v, first, columns);
  }

  float factors[kWarpRows];
  for (int i = 0; i < kWarpRows; ++i) {
    factors[i] = task.keys == 0 ? 0.0f : 1.0f / total[i];
    if (place.lane == 0 && place.first_column == 0 && place.row(i) < task.queries) {
      a.log_sum_exp[task.head * a.shape.total_queries + task.first_query + place.row(i)] =
          maximum[i] + logf(total[i]);  // minus infinity without keys
    }
  }
  store_rows(query_rows(a.y, task, a.shape), sums, place, factors, columns, false);
}

/// delta [heads, total_queries] = dy · y per head and query, one warp each.
template <class T>
__global__ void __launch_bounds__(kBlockThreads, 2)
    delta_kernel(float* delta, const AttentionBackward<T> a) {
  const int64_t index = warp_row();
  if (index >= a.shape.total_queries * a.shape.heads) return;
  const int64_t row = index / a.shape.heads, head = index % a.shape.heads;
  const T* const dy = a.dy.data + row * a.dy.stride + head * a.shape.head_size;
  const T* const y = a.y.data + row * a.y.stride + head * a.shape.head_size;
  float sum = 0;
  for (int64_t c = threadIdx.x; c < a.shape.head_size; c += kWarp) {
    sum += to_float(dy[c]) * to_float(y[c]);
  }
  sum = warp_sum(sum);
  if (threadIdx.x == 0) delta[head * a.shape.total_queries + row] = sum;
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads, 2)
    dq_kernel(const float* delta, const AttentionBackward<T> a) {
  SharedTiles& shared = *dynamic_shared<SharedTiles>();
  const AttentionTask task(a.shape, blockIdx.x);
  const Place place;
  if (place.first_row >= task.queries) return;
  const int columns = static_cast<int>(a.shape.head_size);
  const HeadRows<const T> q = query_rows(a.q, task, a.shape), dy = query_rows(a.dy, task, a.shape),
                          k = key_rows(a.k, task, a.shape), v = key_rows(a.v, task, a.shape);
  const int64_t statistics = task.head * a.shape.total_queries + task.first_query;
  const int last = a.shape.causal ? min(task.keys, place.first_row + kTile) : task.keys;
  Sums sums = {};
  float factors[kWarpRows];

  for (int first = 0; first < last; first += kTile) {
    float scores[kWarpRows], dp[kWarpRows];
    multiply_rows(scores, shared, place, q, k, first, columns);
    multiply_rows(dp, shared, place, dy, v, first, columns);
    const int key = first + place.lane;
    for (int i = 0; i < kWarpRows; ++i) {
      const int row = place.row(i);
      float ds = 0;
      if (row < task.queries && key < task.keys && (!a.shape.causal || key <= row)) {
        const float p = expf(scores[i] * a.shape.scale - a.log_sum_exp[statistics + row]);
        ds = p * (dp[i] - delta[statistics + row]);
      }
      shared.weights[0][place.warp_row + i][place.lane] = ds;
    }
    add_weighted_rows(sums, shared, place, shared.weights[0], k, first, columns);
  }

  for (float& factor : factors) factor = a.shape.scale;
  store_rows(query_rows(a.dq, task, a.shape), sums, place, factors, columns, a.add_to_dq);
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads, 2)
    dkv_kernel(const float* delta, const AttentionBackward<T> a) {
  SharedTiles& shared = *dynamic_shared<SharedTiles>();
  const AttentionTask task(a.shape, blockIdx.x);
  const Place place;
  if (place.first_row >= task.keys) return;
  const int columns = static_cast<int>(a.shape.head_size);
  const HeadRows<const T> q = query_rows(a.q, task, a.shape), dy = query_rows(a.dy, task, a.shape),
                          k = key_rows(a.k, task, a.shape), v = key_rows(a.v, task, a.shape);
  const int64_t statistics = task.head * a.shape.total_queries + task.first_query;
  Sums dk = {}, dv = {};

  // Causal: earlier queries than the block's first key see none of its keys.
  for (int first = a.shape.causal ? place.first_row : 0; first < task.queries; first += kTile) {
    float scores[kWarpRows], dp[kWarpRows];
    multiply_rows(scores, shared, place, k, q, first, columns);
    multiply_rows(dp, shared, place, v, dy, first, columns);
    const int query = first + place.lane;
    const bool inside = query < task.queries;
    const float log_sum_exp = inside ? a.log_sum_exp[statistics + query] : 0.0f;
    const float dot = inside ? delta[statistics + query] : 0.0f;
    for (int i = 0; i < kWarpRows; ++i) {
      const int key = place.row(i);
      float p = 0, ds = 0;
      if (inside && key < task.keys && (!a.shape.causal || key <= query)) {
        p = expf(scores[i] * a.shape.scale - log_sum_exp);
        ds = p * (dp[i] - dot);
      }
      shared.weights[0][place.warp_row + i][place.lane] = p;
      shared.weights[1][place.warp_row + i][place.lane] = ds;
    }
    add_weighted_rows(dv, shared, place, shared.weights[0], dy, first, columns);
    add_weighted_rows(dk, shared, place, shared.weights[1], q, first, columns);
  }

  float ones[kWarpRows], scales[kWarpRows];
  for (int i = 0; i < kWarpRows; ++i) {
    ones[i] = 1;
    scales[i] = a.shape.scale;
  }
  store_rows(key_rows(a.dv, task, a.shape), dv, place, ones, columns, a.add_to_dkv);
  store_rows(key_rows(a.dk, task, a.shape), dk, place, scales, columns, a.add_to_dkv);
}

/// One block for 32 own rows and 128 columns of one task.
LaunchShape launch_shape(const AttentionShape& shape, int64_t max_own_rows) {
  return {dim3(static_cast<unsigned>(shape.sequences * shape.heads),
               static_cast<unsigned>(divide_up(max_own_rows, kTile)),
               static_cast<unsigned>(divide_up(shape.head_size, kPieces * kTile))),
          dim3(kWarp, kBlockWarps), static_cast<int64_t>(sizeof(SharedTiles))};
}

}  // namespace

template <class T>
void attention_forward_f32(const AttentionForward<T>& arguments, cudaStream_t stream) {
  const AttentionShape& shape = arguments.shape;
  if (shape.sequences == 0 || shape.max_queries == 0) return;
  launch("attention_forward", forward_kernel<T>, launch_shape(shape, shape.max_queries), stream,
         arguments);
}

template <class T>
void attention_backward_f32(const AttentionBackward<T>& arguments, float* delta,
                            cudaStream_t stream) {
  const AttentionShape& shape = arguments.shape;
  if (shape.sequences == 0) return;
  if (shape.max_queries > 0) {
    launch("attention_delta", delta_kernel<T>, warp_per_row(shape.total_queries * shape.heads),
           stream, delta, arguments);
    launch("attention_dq", dq_kernel<T>, launch_shape(shape, shape.max_queries), stream, delta,
           arguments);
  }
  if (shape.max_keys > 0) {
    launch("attention_dkv", dkv_kernel<T>, launch_shape(shape, shape.max_keys), stream, delta,
           arguments);
  }
}

template void attention_forward_f32(const AttentionForward<float>&, cudaStream_t);
template void attention_forward_f32(const AttentionForward<__nv_bfloat16>&, cudaStream_t);
template void attention_backward_f32(const AttentionBackward<float>&, float*, cudaStream_t);
template void attention_backward_f32(const AttentionBackward<__nv_bfloat16>&, float*, cudaStream_t);

}  // namespace clip
