// What nvcc knows and g++ does not, pre-included (-include) into every .cu of a simulator build: CUDA's
// keywords, the built-in variables, barriers, warp functions and intrinsics that kernels use. Types and
// the host's functions come from NVIDIA's own headers.
#pragma once

// Before NVIDIA's headers, which leave alone what is defined already. A static __shared__ array is one
// object, collected with all others in a section that is poisoned for every block.
#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static __attribute__((section("cudasim_shared")))
#define __launch_bounds__(...)

#include <cuda_runtime.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

// Of the thread that runs; set whenever threads take turns.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
inline constexpr int warpSize = 32;

namespace cudasim {

/// A place in a kernel, for reports.
struct Site {
  const char* file = "";
  int line = 0;
};

enum class Shuffle { kIndex, kUp, kDown, kXor };
enum class Vote { kBallot, kAny, kAll };
enum class BlockVote { kNone, kCount, kAnd, kOr };

int block_barrier(BlockVote vote, int predicate, Site site);
void warp_barrier(unsigned mask, Site site);
unsigned warp_vote(Vote vote, unsigned mask, bool predicate, Site site);
/// `value` of the lane that the shuffle names; operand is a lane, a distance or a lane mask.
uint64_t warp_shuffle(Shuffle shuffle, unsigned mask, uint64_t value, int operand, int width,
                      Site site);
[[noreturn]] void trap(Site site);

template <class T>
T shuffle(Shuffle kind, unsigned mask, T value, int operand, int width, Site site) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_shuffle(kind, mask, bits, operand, width, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace cudasim

// ---- Barriers. The last two parameters are never given: they say where the call stands.
inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cudasim::block_barrier(cudasim::BlockVote::kNone, 0, {file, line});
}
inline int __syncthreads_count(int predicate, const char* file = __builtin_FILE(),
                               int line = __builtin_LINE()) {
  return cudasim::block_barrier(cudasim::BlockVote::kCount, predicate, {file, line});
}
inline int __syncthreads_and(int predicate, const char* file = __builtin_FILE(),
                             int line = __builtin_LINE()) {
  return cudasim::block_barrier(cudasim::BlockVote::kAnd, predicate, {file, line});
}
inline int __syncthreads_or(int predicate, const char* file = __builtin_FILE(),
                            int line = __builtin_LINE()) {
  return cudasim::block_barrier(cudasim::BlockVote::kOr, predicate, {file, line});
}
inline void __syncwarp(unsigned mask = 0xffffffffu, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  cudasim::warp_barrier(mask, {file, line});
}

// ---- Warp functions
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
  return cudasim::shuffle(cudasim::Shuffle::kIndex, mask, value, lane, width, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32,
                 const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return cudasim::shuffle(cudasim::Shuffle::kUp, mask, value, static_cast<int>(distance), width,
                          {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32,
                   const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return cudasim::shuffle(cudasim::Shuffle::kDown, mask, value, static_cast<int>(distance), width,
                          {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return cudasim::shuffle(cudasim::Shuffle::kXor, mask, value, lane_mask, width, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
  return cudasim::warp_vote(cudasim::Vote::kBallot, mask, predicate != 0, {file, line});
}
inline int __any_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  return static_cast<int>(
      cudasim::warp_vote(cudasim::Vote::kAny, mask, predicate != 0, {file, line}));
}
inline int __all_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  return static_cast<int>(
      cudasim::warp_vote(cudasim::Vote::kAll, mask, predicate != 0, {file, line}));
}
[[noreturn]] inline void __trap(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cudasim::trap({file, line});
}

// ---- Intrinsics. The approximate ones are exact here: a GPU's result differs in the last bits.
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __frsqrt_rn(float x) { return 1.0f / std::sqrt(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::lrint(x)); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
void __stcs(T* address, T value) {
  *address = value;
}

inline int min(int a, int b) { return a < b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline long min(long a, long b) { return a < b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline float min(float a, float b) { return std::fmin(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline long max(long a, long b) { return a > b ? a : b; }
inline long long max(long long a, long long b) { return a > b ? a : b; }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }
