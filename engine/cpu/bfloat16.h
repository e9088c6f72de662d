// Numbers as they are stored and as they are computed with: a kernel is one template over the stored
// type, reads with to_real() and writes with assign(). F32 and F64 are computed with as they are;
// BF16, the upper half of an F32, as F32.
#pragma once

#include <bit>
#include <cstdint>

#include "engine/types.h"

namespace clip {

struct BF16 {
  uint16_t bits;
};
template <>
inline constexpr DType kDTypeOf<BF16> = DType::kBF16;

inline float to_real(BF16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
inline float to_real(float x) { return x; }
inline double to_real(double x) { return x; }

/// What numbers stored as T are computed with.
template <class T>
using Real = decltype(to_real(T{}));

inline void assign(double& to, double from) { to = from; }
inline void assign(float& to, float from) { to = from; }
inline void assign(float& to, double from) { to = static_cast<float>(from); }
inline void assign(BF16& to, float from) {
  const auto bits = std::bit_cast<uint32_t>(from);
  // To nearest, ties to even: the carry of the addition reaches the exponent where it must.
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const uint32_t quiet_nan = bits | 0x400000u;  // rounding could carry a NaN to infinity
  to.bits = static_cast<uint16_t>((from != from ? quiet_nan : rounded) >> 16);
}
inline void assign(BF16& to, double from) { assign(to, static_cast<float>(from)); }

}  // namespace clip
