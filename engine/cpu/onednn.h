// The matrix products of oneDNN, behind one function: nothing else in the project includes its
// headers. Versions 2 and 3 both serve.
#pragma once

#include <cstdint>

#include "engine/backend.h"

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

}  // namespace clip
