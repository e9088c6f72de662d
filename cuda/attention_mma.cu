// Attention for BF16 heads of 64 on the tensor cores: one block for each head of each sequence, all
// of whose rows lie in shared memory. Forward and dq walk the keys, for strips of queries; dk and dv
// walk the queries, for strips of keys. No barrier after the copies, no atomics: a row of output
// belongs to one warp, which adds in the order of rows.
#include <algorithm>
#include <cmath>

#include "cuda/attention_mma.cuh"
#include "cuda/dynamic_shared.cuh"
#include "cuda/launch.cuh"

namespace clip {
namespace {

using namespace strips;

// These waste the fewest strips at 50, 77, 197, 257 and 577 rows. At 6 warps and 168 registers two
// blocks of the backward kernel share a multiprocessor.
constexpr int kForwardWarps = 10, kBackwardWarps = 6;
constexpr int kLeastWarps = 4;  // to copy quickly, however few strips there are

struct Warp {
  int first_row = static_cast<int>(threadIdx.x) / 32 * kStripRows;  ///< of its first strip
  int stride = static_cast<int>(blockDim.x) / 32 * kStripRows;      ///< to its next strip
};

/// Rows of keys that strip rows `row` and, at [1], `row` + 8 see.
struct Visible {
  int keys[2];

  __device__ Visible(const AttentionTask& task, bool causal, int row)
      : keys{causal ? min(row + 1, task.keys) : task.keys,
             causal ? min(row + 9, task.keys) : task.keys} {}
};

/// First key row, in steps of 16, that no row of the strip sees.
__device__ int visible_end(const AttentionTask& task, bool causal, int first_row) {
  return padded(causal ? min(first_row + kStripRows, task.keys) : task.keys);
}

__global__ void __launch_bounds__(kForwardWarps * 32)
    forward_kernel(const AttentionForward<bf16> a) {
  const AttentionTask task(a.shape, blockIdx.x);
  const Lane lane;
  const Warp warp;
  const bool causal = a.shape.causal;
  const int padded_keys = padded(task.keys);
  bf16* const k = dynamic_shared<bf16>();
  bf16* const v = k + padded_keys * kHeadSize;
  copy_to_resident(k, key_rows(a.k, task, a.shape), padded_keys);
  copy_to_resident(v, key_rows(a.v, task, a.shape), padded_keys);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  __syncthreads();

  const float log2_scale = a.shape.scale * kLog2E;
  for (int first_row = warp.first_row; first_row < task.queries; first_row += warp.stride) {
    const Strip q = load_strip(query_rows(a.q, task, a.shape), first_row, lane);
    const Visible visible(task, causal, first_row + lane.group);
    Sums sums = {};
    // Of the scores before they are scaled; each lane sums its own columns until the end.
    float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};

    walk(0, visible_end(task, causal, first_row), [&](int first, auto constant) {
      constexpr int kTiles = decltype(constant)::value;
      float scores[kTiles][4];
      multiply_by_transpose(scores, q, k, first, lane);
      float larger[2] = {maximum[0], maximum[1]};
      for (int n = 0; n < kTiles; ++n) {
        for (int i = 0; i < 4; ++i) {
          const int key = first + n * 8 + lane.pair + i % 2;
          if (key >= visible.keys[i / 2]) scores[n][i] = -INFINITY;
          larger[i / 2] = fmaxf(larger[i / 2], scores[n][i]);
        }
      }
      float base[2];
      for (int half = 0; half < 2; ++half) {
        larger[half] = row_max(larger[half]);
        // Finite: the first step holds key 0, which all rows see.
        base[half] = larger[half] * log2_scale;
        const float correction = ptx::exp2_approx(maximum[half] * log2_scale - base[half]);
        maximum[half] = larger[half];
        total[half] *= correction;
        for (int n = 0; n < kHeadSize / 8; ++n) {
          sums[n][2 * half] *= correction;
          sums[n][2 * half + 1] *= correction;
        }
      }
      for (int n = 0; n < kTiles; ++n) {
        for (int i = 0; i < 4; ++i) {
          scores[n][i] = ptx::exp2_approx(scores[n][i] * log2_scale - base[i / 2]);
          total[i / 2] += scores[n][i];
        }
      }
      add_product(sums, scores, v, first, lane);
    });

    float factors[2];
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + lane.group + half * 8;
      total[half] = row_sum(total[half]);
      factors[half] = task.keys == 0 ? 0.0f : 1.0f / total[half];
      if (lane.pair == 0 && row < task.queries) {
        a.log_sum_exp[task.head * a.shape.total_queries + task.first_query + row] =
            maximum[half] * a.shape.scale + logf(total[half]);  // minus infinity without keys
      }
    }
    store_strip(query_rows(a.y, task, a.shape), first_row, sums, factors, false, lane);
  }
}

/// dq: strips of q and dy walk k and v.
__device__ void backward_queries(const AttentionBackward<bf16>& a, const AttentionTask& task) {
  const Lane lane;
  const Warp warp;
  const bool causal = a.shape.causal;
  const int padded_keys = padded(task.keys);
  bf16* const k = dynamic_shared<bf16>();
  bf16* const v = k + padded_keys * kHeadSize;
  copy_to_resident(k, key_rows(a.k, task, a.shape), padded_keys);
  copy_to_resident(v, key_rows(a.v, task, a.shape), padded_keys);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  __syncthreads();

  const float log2_scale = a.shape.scale * kLog2E;
  for (int first_row = warp.first_row; first_row < task.queries; first_row += warp.stride) {
    const Strip q = load_strip(query_rows(a.q, task, a.shape), first_row, lane);
    const Strip dy = load_strip(query_rows(a.dy, task, a.shape), first_row, lane);
    const Visible visible(task, causal, first_row + lane.group);
    float log2_sum_exp[2], delta[2] = {0, 0};
    {
      const Strip y = load_strip(query_rows(a.y, task, a.shape), first_row, lane);
      for (int step = 0; step < kHeadSize / 16; ++step) {
        for (int part = 0; part < 4; ++part) {
          const float2 left = unpack(dy.steps[step][part]), right = unpack(y.steps[step][part]);
          delta[part % 2] += left.x * right.x + left.y * right.y;
        }
      }
    }
    for (int half = 0; half < 2; ++half) {
      const int row = min(first_row + lane.group + half * 8, task.queries - 1);
      delta[half] = row_sum(delta[half]);
      log2_sum_exp[half] =
          a.log_sum_exp[task.head * a.shape.total_queries + task.first_query + row] * kLog2E;
    }
    Sums sums = {};

    walk(0, visible_end(task, causal, first_row), [&](int first, auto constant) {
      constexpr int kTiles = decltype(constant)::value;
      float scores[kTiles][4], dp[kTiles][4];
      multiply_by_transpose(scores, q, k, first, lane);
      multiply_by_transpose(dp, dy, v, first, lane);
      for (int n = 0; n < kTiles; ++n) {
        for (int i = 0; i < 4; ++i) {
          const int key = first + n * 8 + lane.pair + i % 2;
          const float p = ptx::exp2_approx(scores[n][i] * log2_scale - log2_sum_exp[i / 2]);
          // Chosen, not multiplied by zero: p may be infinite where it is not meant.
          scores[n][i] = key < visible.keys[i / 2] ? p * (dp[n][i] - delta[i / 2]) : 0.0f;
        }
      }
      add_product(sums, scores, k, first, lane);
    });
    store_strip(query_rows(a.dq, task, a.shape), first_row, sums, {a.shape.scale, a.shape.scale},
                a.add_to_dq, lane);
  }
}

/// What dk and dv need to know of a query.
struct QueryStatistics {
  float log2_sum_exp;
  float delta;  ///< dy · y
};

/// dy is resident, y is not. Threads read the chunks of dy that copy_to_resident had them copy, so no
/// barrier is needed in between.
__device__ void fill_statistics(QueryStatistics* statistics, const bf16* dy,
                                const AttentionBackward<bf16>& a, const AttentionTask& task,
                                int padded_queries) {
  const HeadRows<const bf16> y = query_rows(a.y, task, a.shape);
  // Eight lanes a row; 16 rows are whole warps, so that all lanes meet in the shuffles.
  for (int i = static_cast<int>(threadIdx.x); i < padded_queries * kRowChunks;
       i += static_cast<int>(blockDim.x)) {
    const int row = i / kRowChunks, chunk = i % kRowChunks;
    const bool inside = row < task.queries;
    float sum = 0;
    if (inside) {
      const uint4 left = *reinterpret_cast<const uint4*>(dy + place_of(row, chunk));
      const uint4 right = *reinterpret_cast<const uint4*>(y.row(row) + chunk * 8);
      const uint32_t lefts[4] = {left.x, left.y, left.z, left.w};
      const uint32_t rights[4] = {right.x, right.y, right.z, right.w};
      for (int j = 0; j < 4; ++j) {
        const float2 l = unpack(lefts[j]), r = unpack(rights[j]);
        sum += l.x * r.x + l.y * r.y;
      }
    }
    sum = row_sum(sum);
    sum += __shfl_xor_sync(kAllLanes, sum, 4);
    if (chunk == 0) {
      // Past the last query dy is zero, so that probabilities there add nothing if they are finite.
      statistics[row] = {
          inside
              ? a.log_sum_exp[task.head * a.shape.total_queries + task.first_query + row] * kLog2E
              : 0.0f,
          sum};
    }
  }
}

/// dk and dv: strips of k and v walk q and dy; scores are transposed, [keys, queries].
__device__ void backward_keys(const AttentionBackward<bf16>& a, const AttentionTask& task) {
  const Lane lane;
  const Warp warp;
  const int padded_queries = padded(task.queries);
  bf16* const q = dynamic_shared<bf16>();
  bf16* const dy = q + padded_queries * kHeadSize;
  auto* const statistics = reinterpret_cast<QueryStatistics*>(dy + padded_queries * kHeadSize);
  copy_to_resident(q, query_rows(a.q, task, a.shape), padded_queries);
  copy_to_resident(dy, query_rows(a.dy, task, a.shape), padded_queries);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  fill_statistics(statistics, dy, a, task, padded_queries);
  __syncthreads();

  const float log2_scale = a.shape.scale * kLog2E;
  for (int first_row = warp.first_row; first_row < task.keys; first_row += warp.stride) {
    const Strip k = load_strip(key_rows(a.k, task, a.shape), first_row, lane);
    const Strip v = load_strip(key_rows(a.v, task, a.shape), first_row, lane);
    // The first query that sees key row `group`; row `group` + 8 is seen 8 queries later, or from
    // query 0 on as well.
    const int first_seen = a.shape.causal ? first_row + lane.group : -8;
    Sums dk = {}, dv = {};

    // 16 queries at a time: with 32 the registers would not do.
    for (int first = a.shape.causal ? first_row : 0; first < padded_queries; first += 16) {
      float p[2][4], ds[2][4];
      multiply_by_transpose(p, k, q, first, lane);
      multiply_by_transpose(ds, v, dy, first, lane);
      for (int n = 0; n < 2; ++n) {
        const int query = first + n * 8 + lane.pair;
        const float4 two = *reinterpret_cast<const float4*>(statistics + query);
        for (int i = 0; i < 4; ++i) {
          const float log2_sum_exp = i % 2 == 0 ? two.x : two.z, delta = i % 2 == 0 ? two.y : two.w;
          const bool seen = query + i % 2 >= first_seen + i / 2 * 8;
          p[n][i] = seen ? ptx::exp2_approx(p[n][i] * log2_scale - log2_sum_exp) : 0.0f;
          ds[n][i] = p[n][i] * (ds[n][i] - delta);
        }
      }
      add_product(dv, p, dy, first, lane);
      add_product(dk, ds, q, first, lane);
    }
    store_strip(key_rows(a.dv, task, a.shape), first_row, dv, {1.0f, 1.0f}, a.add_to_dkv, lane);
    store_strip(key_rows(a.dk, task, a.shape), first_row, dk, {a.shape.scale, a.shape.scale},
                a.add_to_dkv, lane);
  }
}

/// Two blocks for each task, neighbours, so that what both read comes from memory once.
__global__ void __launch_bounds__(kBackwardWarps * 32, 2)
    backward_kernel(const AttentionBackward<bf16> a) {
  const AttentionTask task(a.shape, blockIdx.x / 2);
  if (blockIdx.x % 2 == 0) {
    backward_queries(a, task);
  } else {
    backward_keys(a, task);
  }
}

/// As many warps as share the strips of so many rows evenly in the fewest rounds.
unsigned threads_for(int64_t rows, int most_warps) {
  const int strips = padded(static_cast<int>(rows)) / kStripRows;
  const int rounds = std::max(1, (strips + most_warps - 1) / most_warps);
  return static_cast<unsigned>(32 * std::max(kLeastWarps, (strips + rounds - 1) / rounds));
}

int64_t resident_bytes(int64_t rows) {
  return 2 * padded(static_cast<int>(rows)) * kHeadSize * static_cast<int64_t>(sizeof(bf16));
}
int64_t backward_bytes(const AttentionShape& shape) {
  const int64_t statistics =
      padded(static_cast<int>(shape.max_queries)) * static_cast<int64_t>(sizeof(QueryStatistics));
  return std::max(resident_bytes(shape.max_keys), resident_bytes(shape.max_queries) + statistics);
}

bool has_aligned_rows(const HeadMatrix<const bf16>& matrix) {
  return reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 && matrix.stride % 8 == 0;
}
bool has_aligned_rows(const HeadMatrix<bf16>& matrix) {
  return has_aligned_rows(HeadMatrix<const bf16>{matrix.data, matrix.stride});
}

int64_t most_shared_bytes() {
  int device = 0, bytes = 0;
  check_cuda(cudaGetDevice(&device), "attention");
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "attention");
  return bytes;
}

}  // namespace

bool attention_mma_takes(const AttentionForward<bf16>& a) {
  return a.shape.head_size == kHeadSize && has_aligned_rows(a.y) && has_aligned_rows(a.q) &&
         has_aligned_rows(a.k) && has_aligned_rows(a.v) &&
         resident_bytes(a.shape.max_keys) <= most_shared_bytes();
}

bool attention_mma_takes(const AttentionBackward<bf16>& a) {
  return a.shape.head_size == kHeadSize && has_aligned_rows(a.dq) && has_aligned_rows(a.dk) &&
         has_aligned_rows(a.dv) && has_aligned_rows(a.dy) && has_aligned_rows(a.y) &&
         has_aligned_rows(a.q) && has_aligned_rows(a.k) && has_aligned_rows(a.v) &&
         backward_bytes(a.shape) <= most_shared_bytes();
}

void attention_forward_mma(const AttentionForward<bf16>& arguments, cudaStream_t stream) {
  const AttentionShape& shape = arguments.shape;
  if (shape.sequences == 0 || shape.max_queries == 0) return;
  launch("attention_forward", forward_kernel,
         {{static_cast<unsigned>(shape.sequences * shape.heads)},
          {threads_for(shape.max_queries, kForwardWarps)},
          resident_bytes(shape.max_keys)},
         stream, arguments);
}

void attention_backward_mma(const AttentionBackward<bf16>& arguments, cudaStream_t stream) {
  const AttentionShape& shape = arguments.shape;
  if (shape.sequences == 0) return;
  launch("attention_backward", backward_kernel,
         {{static_cast<unsigned>(2 * shape.sequences * shape.heads)},
          {threads_for(std::max(shape.max_queries, shape.max_keys), kBackwardWarps)},
          backward_bytes(shape)},
         stream, arguments);
}

}  // namespace clip
