// What kernels share. Blocks are kBlockWarps warps, block dimensions (32, kBlockWarps): threadIdx.x
// is the lane, threadIdx.y the warp. Arithmetic is F32 whatever the stored type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

namespace clip {

inline constexpr int kWarp = 32;
inline constexpr int kBlockWarps = 8;
inline constexpr int kBlockThreads = kWarp * kBlockWarps;
inline constexpr unsigned kAllLanes = 0xffffffffu;

/// Numbers of a 16-byte load or store.
template <class T>
inline constexpr int kVector = 16 / static_cast<int>(sizeof(T));

// ---- Sums by fixed trees: the order never depends on the device ---------------------------------

/// The sum over the warp, in every lane; all lanes must call.
template <class T>
__device__ inline T warp_sum(T x) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    x += __shfl_xor_sync(kAllLanes, x, distance);
  return x;
}

template <class T>
__device__ inline T warp_max(T x) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, x, distance);
    x = other > x ? other : x;
  }
  return x;
}

/// The sum over the block, in every thread; all threads must call. scratch: kBlockWarps numbers of
/// shared memory.
template <class T>
__device__ inline T block_sum(T x, T* scratch) {
  x = warp_sum(x);
  __syncthreads();  // scratch may still be read for the call before
  if (threadIdx.x == 0) scratch[threadIdx.y] = x;
  __syncthreads();
  T total = scratch[0];
  for (int warp = 1; warp < kBlockWarps; ++warp) total += scratch[warp];
  return total;
}

template <class T>
__device__ inline T block_max(T x, T* scratch) {
  x = warp_max(x);
  __syncthreads();  // scratch may still be read for the call before
  if (threadIdx.x == 0) scratch[threadIdx.y] = x;
  __syncthreads();
  T maximum = scratch[0];
  for (int warp = 1; warp < kBlockWarps; ++warp)
    maximum = scratch[warp] > maximum ? scratch[warp] : maximum;
  return maximum;
}

// ---- Stored types ------------------------------------------------------------------------------

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ inline void assign(float& to, float from) { to = from; }
__device__ inline void assign(__nv_bfloat16& to, float from) { to = __float2bfloat16_rn(from); }

/// to = x, or += x.
template <class T>
__device__ inline void put(T& to, float x, bool add) {
  assign(to, add ? to_float(to) + x : x);
}

/// What is left of x when it is stored as T.
template <class T>
__device__ inline float rounded(float x) {
  T stored;
  assign(stored, x);
  return to_float(stored);
}

// ---- kVector<T> neighbours of a row. `left` counts the numbers from here to the row's end, which
// may be fewer, or none (then the address is not touched); rows need not start aligned. -----------

__device__ inline bool is_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

/// Numbers past the end are 0.
template <class T>
__device__ inline void load_vector(float (&values)[kVector<T>], const T* from, int64_t left) {
  constexpr int kCount = kVector<T>;
  if (left >= kCount && is_aligned(from)) {
    const uint4 bytes = *reinterpret_cast<const uint4*>(from);
    T stored[kCount];
    memcpy(static_cast<void*>(stored), &bytes, sizeof(bytes));
    for (int i = 0; i < kCount; ++i) values[i] = to_float(stored[i]);
  } else {
    for (int i = 0; i < kCount; ++i) values[i] = i < left ? to_float(from[i]) : 0.0f;
  }
}

/// What a 16-byte store takes of kVector<T> numbers.
template <class T>
__device__ inline uint4 packed(const float (&values)[kVector<T>]) {
  T stored[kVector<T>];
  for (int i = 0; i < kVector<T>; ++i) assign(stored[i], values[i]);
  uint4 bytes;
  memcpy(&bytes, static_cast<const void*>(stored), sizeof(bytes));
  return bytes;
}

template <class T>
__device__ inline void store_vector(T* to, const float (&values)[kVector<T>], int64_t left) {
  constexpr int kCount = kVector<T>;
  if (left >= kCount && is_aligned(to)) {
    *reinterpret_cast<uint4*>(to) = packed<T>(values);
  } else {
    for (int i = 0; i < kCount; ++i)
      if (i < left) assign(to[i], values[i]);
  }
}

/// to = values, or += values.
template <class T>
__device__ inline void put_vector(T* to, const float (&values)[kVector<T>], int64_t left,
                                  bool add) {
  float result[kVector<T>] = {};
  if (add) load_vector(result, to, left);
  for (int i = 0; i < kVector<T>; ++i) result[i] = add ? result[i] + values[i] : values[i];
  store_vector(to, result, left);
}

/// Runs body(column, numbers left) for the vectors of a row that fall to this lane.
template <class T, class Body>
__device__ inline void for_row_vectors(int64_t width, const Body& body) {
  for (int64_t column = static_cast<int64_t>(threadIdx.x) * kVector<T>; column < width;
       column += kWarp * kVector<T>)
    body(column, width - column);
}

/// The row of this warp where a launch has one warp for each row.
__device__ inline int64_t warp_row() {
  return static_cast<int64_t>(blockIdx.x) * kBlockWarps + threadIdx.y;
}

/// Number of this thread within its block.
__device__ inline int block_thread() { return static_cast<int>(threadIdx.y * kWarp + threadIdx.x); }

/// Number of this thread within a one-dimensional grid of blocks.
__device__ inline int64_t grid_thread() {
  return static_cast<int64_t>(blockIdx.x) * kBlockThreads + block_thread();
}

/// A vector of a matrix: its row, its first column, and the numbers from there to the row's end.
struct VectorPlace {
  int64_t row, column, left;
};

/// The one that falls to this thread where a launch has one thread for each vector of rows of `width`
/// numbers; threads too many get rows past the last.
template <class T>
__device__ inline VectorPlace vector_place(int64_t width) {
  const int64_t vectors = (width + kVector<T> - 1) / kVector<T>;
  const int64_t column = grid_thread() % vectors * kVector<T>;
  return {grid_thread() / vectors, column, width - column};
}

}  // namespace clip
