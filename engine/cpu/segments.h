// What the kernels over rows share. Sums over rows have an order that the sizes alone decide: each
// segment of kSegmentRows rows is one task with its own partial sums, which are then added in the
// order of the segments.
#pragma once

#include <algorithm>

#include "engine/backend.h"
#include "engine/cpu/bfloat16.h"
#include "engine/parallel.h"

namespace clip {

inline int64_t segment_count(int64_t rows) { return (rows + kSegmentRows - 1) / kSegmentRows; }

/// Runs body(segment, first row, one past its last row) for each segment, in parallel.
template <class Body>
void for_segments(int64_t rows, const Body& body) {
  parallel_for(segment_count(rows), [&](int64_t segment) {
    body(segment, segment * kSegmentRows, std::min(rows, (segment + 1) * kSegmentRows));
  });
}

/// totals [C] (+)= sum over segments, in order, of partials[segment * stride + column]. Nothing if
/// totals is undefined.
template <class T>
void add_segments(Tensor& totals, const T* partials, int64_t segments, int64_t stride,
                  Accumulate to_totals) {
  if (!totals) return;
  constexpr int64_t kBlock = 64;
  T* out = totals.data<T>();
  const int64_t width = totals.numel();
  parallel_for((width + kBlock - 1) / kBlock, [=](int64_t block) {
    const int64_t first = block * kBlock, count = std::min(kBlock, width - first);
    T sums[kBlock] = {};
    for (int64_t segment = 0; segment < segments; ++segment) {
      const T* partial = partials + segment * stride + first;
      for (int64_t c = 0; c < count; ++c) sums[c] += partial[c];
    }
    for (int64_t c = 0; c < count; ++c) {
      out[first + c] = to_totals == Accumulate::kYes ? out[first + c] + sums[c] : sums[c];
    }
  });
}

/// Address of the first element, or null where the tensor is not wanted or absent.
template <class T>
T* optional_data(Tensor& tensor) {
  return tensor ? tensor.data<T>() : nullptr;
}
template <class T>
const T* optional_data(const Tensor& tensor) {
  return tensor ? tensor.data<T>() : nullptr;
}

/// to [C] = from, or += from.
template <class To, class From>
void put_row(To* to, const From* from, int64_t width, Accumulate accumulate) {
  const bool add = accumulate == Accumulate::kYes;
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) {
    const auto value = to_real(from[c]);
    assign(to[c], add ? to_real(to[c]) + value : value);
  }
}

}  // namespace clip
