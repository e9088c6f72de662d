// The matrix products of oneDNN: nothing else in the project includes its headers. Versions 2 and 3
// both serve.
#pragma once

#include <cstdint>
#include <memory>

#include "engine/backend.h"
#include "engine/cpu/bfloat16.h"

namespace clip {

/// c [m, n] = alpha op(a) op(b) + beta c, row-major, computed by the calling thread alone: with more
/// threads oneDNN may split the sums over k by their number, and bits would depend on it.
///
/// a, b     op(a) is [m, k], op(b) is [k, n]; lda, ldb, ldc are the lengths of stored rows
/// beta     0 writes c without reading it
/// throws   clip::Error if oneDNN reports a failure
void onednn_sgemm(Transpose transpose_a, Transpose transpose_b, int64_t m, int64_t n, int64_t k,
                  float alpha, const float* a, int64_t lda, const float* b, int64_t ldb, float beta,
                  float* c, int64_t ldc);

/// The same for BF16 factors, with sums in F32; alpha is 1.
///
/// C          float or BF16: sums are rounded once
/// accumulate kNo writes c without reading it
template <class C>
void onednn_bf16_gemm(Transpose transpose_a, Transpose transpose_b, int64_t m, int64_t n, int64_t k,
                      const BF16* a, int64_t lda, const BF16* b, int64_t ldb, Accumulate accumulate,
                      C* c, int64_t ldc);

/// c [m, n] = aᵀ b of BF16 factors a [k, m] and b [k, n], row-major, with sums in F32, by the calling
/// thread alone: a weight's gradient from many rows. Faster than onednn_bf16_gemm, which copies what
/// is transposed.
void onednn_bf16_weight_gradient(int64_t m, int64_t n, int64_t k, const BF16* a, const BF16* b,
                                 float* c);

/// A factor op(b) [k, n], F32 or BF16, copied into the order that oneDNN's kernels read it in: for
/// many products, of few rows above all, which otherwise make such a copy each.
class OnednnPacked {
 public:
  /// b of this dtype, stored with rows of length ldb. Copied by all threads.
  OnednnPacked(DType dtype, Transpose transpose_b, int64_t k, int64_t n, const void* b,
               int64_t ldb);
  ~OnednnPacked();
  OnednnPacked(OnednnPacked&&) noexcept;
  OnednnPacked& operator=(OnednnPacked&&) = delete;

  /// c [m, n] = a op(b) for a [m, k], by the calling thread alone. A is the packed dtype; neither a
  /// nor c has gaps between its rows, which would cost the fast kernels.
  template <class A, class C>
  void multiply(int64_t m, const A* a, C* c) const;

 private:
  struct Data;
  std::unique_ptr<Data> data_;
};

/// True if the processor multiplies BF16 with instructions made for it (AVX512-BF16, AMX) and the
/// environment does not forbid them to oneDNN (ONEDNN_MAX_CPU_ISA). Only then may BF16 products be
/// asked for.
bool onednn_has_bf16();

}  // namespace clip
