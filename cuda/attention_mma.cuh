// Building blocks of attention on the tensor cores, for BF16 heads of 64. A warp owns a strip of 16
// rows as the left factor of its products, in registers. The other side's matrices are resident in
// shared memory and serve as right factors. A product's sums lie in registers exactly as the next
// product's left factor must, so what comes between the products never leaves them.
#pragma once

#include <type_traits>

#include "cuda/attention.cuh"
#include "cuda/ptx.cuh"

namespace clip::strips {

using bf16 = __nv_bfloat16;

constexpr int kHeadSize = 64;
constexpr int kStripRows = 16;
constexpr int kRowChunks = kHeadSize / 8;  // a chunk is 16 bytes
constexpr float kLog2E = 1.44269504f;

/// A lane's place in the tiles of mma.m16n8k16: it holds two neighbouring columns, from `pair` on, of
/// rows `group` and `group` + 8.
struct Lane {
  int index = static_cast<int>(threadIdx.x) % 32;
  int group = index / 4;
  int pair = index % 4 * 2;
};

/// 16 rows of 64 as left factor, 16 columns at a time.
struct Strip {
  uint32_t steps[kHeadSize / 16][4];
};
/// 16 rows of 64 as sums of products, 8 columns at a time.
using Sums = float[kHeadSize / 8][4];

__device__ inline uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ inline float2 unpack(uint32_t bits) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&bits));
}

/// Rows first_row ... first_row + 15. Past the last, that one again: nobody stores what comes of it.
__device__ inline Strip load_strip(const HeadRows<const bf16>& from, int first_row, Lane lane) {
  const bf16* const rows[2] = {
      from.row(min(first_row + lane.group, from.count - 1)) + lane.pair,
      from.row(min(first_row + lane.group + 8, from.count - 1)) + lane.pair};
  Strip strip;
  for (int step = 0; step < kHeadSize / 16; ++step) {
    for (int part = 0; part < 4; ++part) {
      strip.steps[step][part] =
          *reinterpret_cast<const uint32_t*>(rows[part % 2] + step * 16 + part / 2 * 8);
    }
  }
  return strip;
}

/// to (+)= factors[0] times the sums of row `group`, factors[1] times those of row `group` + 8
__device__ inline void store_strip(const HeadRows<bf16>& to, int first_row, const Sums& sums,
                                   const float (&factors)[2], bool add, Lane lane) {
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + lane.group + half * 8;
    if (row >= to.count) continue;
    for (int tile = 0; tile < kHeadSize / 8; ++tile) {
      uint32_t* const pair = reinterpret_cast<uint32_t*>(to.row(row) + tile * 8 + lane.pair);
      const float2 before = add ? unpack(*pair) : float2{0.0f, 0.0f};
      *pair = pack(before.x + factors[half] * sums[tile][2 * half],
                   before.y + factors[half] * sums[tile][2 * half + 1]);
    }
  }
}

/// Where a chunk of a row lies in a resident matrix [rows, 64], in elements. Eight rows' chunks of one
/// number then cover all banks, which is what ldmatrix reads at once. Chunk c + 2 i, c < 2, lies at
/// the place of chunk c with 16 i exclusive-ored.
__device__ inline int place_of(int row, int chunk) {
  return row * kHeadSize + (chunk ^ (row & 7)) * 8;
}

/// Starts copying a head's rows; rows past the last, up to padded_rows, become zero.
__device__ inline void copy_to_resident(bf16* resident, const HeadRows<const bf16>& from,
                                        int padded_rows) {
  for (int i = static_cast<int>(threadIdx.x); i < padded_rows * kRowChunks;
       i += static_cast<int>(blockDim.x)) {
    const int row = i / kRowChunks, chunk = i % kRowChunks;
    bf16* const to = resident + place_of(row, chunk);
    if (row < from.count) {
      ptx::cp_async_16(to, from.row(row) + chunk * 8);
    } else {
      *reinterpret_cast<uint4*>(to) = uint4{0, 0, 0, 0};
    }
  }
}

/// c [16, 8 tiles] = strip times the transpose of resident rows first ... first + 8 tiles - 1
template <int tiles>
__device__ void multiply_by_transpose(float (&c)[tiles][4], const Strip& strip,
                                      const bf16* resident, int first, Lane lane) {
  // ldmatrix: rows 0-7 and 8-15 of 16, each at two neighbouring chunks.
  const int place = place_of(first + lane.index % 8 + lane.index / 16 * 8, lane.index / 8 % 2);
#pragma unroll
  for (int n = 0; n < tiles; n += 2) {
    for (int i = 0; i < 4; ++i) c[n][i] = c[n + 1][i] = 0;
#pragma unroll
    for (int step = 0; step < kHeadSize / 16; ++step) {
      uint32_t b[4];
      ptx::ldmatrix_x4(b, resident + (place ^ step * 16) + n * 8 * kHeadSize);
      ptx::mma_m16n8k16(c[n], strip.steps[step], b[0], b[1]);
      ptx::mma_m16n8k16(c[n + 1], strip.steps[step], b[2], b[3]);
    }
  }
}

/// sums += weights [16, 8 tiles], rounded to BF16, times resident rows first ... first + 8 tiles - 1
template <int tiles>
__device__ void add_product(Sums& sums, const float (&weights)[tiles][4], const bf16* resident,
                            int first, Lane lane) {
  const int place = place_of(first + lane.index % 16, lane.index / 16);
#pragma unroll
  for (int k = 0; k < tiles; k += 2) {
    const uint32_t a[4] = {pack(weights[k][0], weights[k][1]), pack(weights[k][2], weights[k][3]),
                           pack(weights[k + 1][0], weights[k + 1][1]),
                           pack(weights[k + 1][2], weights[k + 1][3])};
#pragma unroll
    for (int n = 0; n < kHeadSize / 8; n += 2) {
      uint32_t b[4];
      ptx::ldmatrix_x4_trans(b, resident + (place ^ n * 8) + k * 8 * kHeadSize);
      ptx::mma_m16n8k16(sums[n], a, b[0], b[1]);
      ptx::mma_m16n8k16(sums[n + 1], a, b[2], b[3]);
    }
  }
}

// A row of a strip is spread over four neighbouring lanes.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}

/// Walks the resident rows of [begin, end), multiples of 16, 32 at a time and 16 at the end:
/// step(first row, number of tiles of 8 rows as a constant).
template <class Step>
__device__ void walk(int begin, int end, const Step& step) {
  int first = begin;
  for (; first + 32 <= end; first += 32) step(first, std::integral_constant<int, 4>{});
  if (first < end) step(first, std::integral_constant<int, 2>{});
}

/// A multiple of 16.
__host__ __device__ inline int padded(int rows) {
  return (rows + kStripRows - 1) / kStripRows * kStripRows;
}

}  // namespace clip::strips
