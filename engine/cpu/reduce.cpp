// Sums over all elements, and what is done element by element.
#include <algorithm>
#include <vector>

#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/segments.h"

namespace clip {
namespace {

/// Elements of one task; also the segments whose sums are added in order.
constexpr int64_t kBlock = 64 * kSegmentRows;

template <class Body>
void for_blocks(int64_t elements, const Body& body) {
  parallel_for((elements + kBlock - 1) / kBlock, [&](int64_t block) {
    body(block, block * kBlock, std::min(elements, (block + 1) * kBlock));
  });
}

/// Sum of term(i) for i in [0, elements), in F64, by blocks.
template <class Term>
double blocked_sum(int64_t elements, const Term& term) {
  std::vector<double> partials(static_cast<size_t>((elements + kBlock - 1) / kBlock));
  for_blocks(elements, [&](int64_t block, int64_t first, int64_t last) {
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = first; i < last; ++i) total += term(i);
    partials[static_cast<size_t>(block)] = total;
  });
  double total = 0;
  for (const double partial : partials) total += partial;
  return total;
}

}  // namespace

void CpuBackend::convert(Tensor& to, const Tensor& from) {
  for_float("convert", to.dtype(), [&]<class To>(To) {
    for_float("convert", from.dtype(), [&]<class From>(From) {
      To* out = to.data<To>();
      const From* in = from.data<From>();
      for_blocks(from.numel(), [=](int64_t, int64_t first, int64_t last) {
#pragma omp simd
        for (int64_t i = first; i < last; ++i) assign(out[i], to_real(in[i]));
      });
    });
  });
}

void CpuBackend::add(Tensor& y, const Tensor& x) {
  for_float("add", y.dtype(), [&]<class T>(T) {
    T* out = y.data<T>();
    const T* in = x.data<T>();
    for_blocks(y.numel(), [=](int64_t, int64_t first, int64_t last) {
      put_row(out + first, in + first, last - first, Accumulate::kYes);
    });
  });
}

void CpuBackend::sum(Tensor& total, const Tensor& x, Accumulate to_total) {
  for_real("sum", x.dtype(), [&]<class T>(T) {
    const T* in = x.data<T>();
    const double added =
        blocked_sum(x.numel(), [in](int64_t i) { return static_cast<double>(in[i]); });
    T& out = *total.data<T>();
    out = to_total == Accumulate::kYes ? out + static_cast<T>(added) : static_cast<T>(added);
  });
}

void CpuBackend::sum_of_squares(Tensor& total, const Tensor& x) {
  for_float("sum_of_squares", x.dtype(), [&]<class T>(T) {
    const T* in = x.data<T>();
    *total.data<double>() = blocked_sum(x.numel(), [in](int64_t i) {
      const auto value = static_cast<double>(to_real(in[i]));
      return value * value;
    });
  });
}

void CpuBackend::clamp(Tensor& x, double low, double high) {
  for_real("clamp", x.dtype(), [&]<class T>(T) {
    T* values = x.data<T>();
    // std::max and std::min return their first argument when it is a NaN: it stays visible.
    for (int64_t i = 0; i < x.numel(); ++i) {
      values[i] = std::min(std::max(values[i], static_cast<T>(low)), static_cast<T>(high));
    }
  });
}

}  // namespace clip
