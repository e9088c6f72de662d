// Shadows cuda/ptx.cuh in simulator builds: functions of the same meaning as the PTX there.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "tests/cudasim/device.h"

namespace cudasim {

void cp_async_16(void* shared, const void* global, Site site);
void cp_async_commit();
void cp_async_wait(int pending);
void ldmatrix_x4(uint32_t (&tiles)[4], const void* row, bool transposed, Site site);
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site);

}  // namespace cudasim

namespace clip::ptx {

/// One store of 16 bytes to global memory, aligned.
inline void store_16(void* global, uint4 bytes) { *static_cast<uint4*>(global) = bytes; }

/// Starts a copy of 16 bytes, both sides 16-byte aligned; complete after commit and wait. Here the
/// copy happens in the wait and not before, and until then the target is poison.
inline void cp_async_16(void* shared, const void* global, const char* file = __builtin_FILE(),
                        int line = __builtin_LINE()) {
  cudasim::cp_async_16(shared, global, {file, line});
}
inline void cp_async_commit() { cudasim::cp_async_commit(); }
/// Waits until at most `pending` of this thread's groups are under way.
template <int pending>
void cp_async_wait() {
  cudasim::cp_async_wait(pending);
}

/// Four 8x8 tiles of 16-bit numbers from shared memory; lane i gives the address of row i % 8 of tile
/// i / 8 (16 bytes, aligned).
inline void ldmatrix_x4(uint32_t (&tiles)[4], const void* row, const char* file = __builtin_FILE(),
                        int line = __builtin_LINE()) {
  cudasim::ldmatrix_x4(tiles, row, false, {file, line});
}
/// The same, each tile transposed.
inline void ldmatrix_x4_trans(uint32_t (&tiles)[4], const void* row,
                              const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cudasim::ldmatrix_x4(tiles, row, true, {file, line});
}

/// d [16, 8] += a [16, 16] b [16, 8], bf16 factors, F32 sums; who holds what is said in cuda/ptx.cuh.
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                         const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cudasim::mma_m16n8k16(d, a, b0, b1, {file, line});
}

/// 2^x. The hardware's has an error of up to 2 ulp, and both give 0 where the result is denormal.
inline float exp2_approx(float x) {
  const float y = std::exp2(x);
  return y < 1.17549435e-38f ? 0.0f : y;
}

}  // namespace clip::ptx
