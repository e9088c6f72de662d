// What a tensor is made of: element types, devices, shapes.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>

#include "engine/check.h"

namespace clip {

enum class DType {
  kF32,
  kBF16,  ///< mixed precision: products and activations
  kF64,   ///< gradient checks
  kI32,   ///< tokens, offsets, row numbers
  kU8,    ///< pixels
};

int64_t size_of(DType dtype);  ///< bytes of one element
/// What statistics and sums over numbers of a dtype are kept in: F32 for BF16, else the dtype itself.
inline DType sum_dtype(DType dtype) { return dtype == DType::kBF16 ? DType::kF32 : dtype; }
const char* name_of(DType dtype);
inline std::ostream& operator<<(std::ostream& out, DType dtype) { return out << name_of(dtype); }

template <class T>
inline constexpr DType kDTypeOf = DType::kF32;
template <>
inline constexpr DType kDTypeOf<double> = DType::kF64;
template <>
inline constexpr DType kDTypeOf<int32_t> = DType::kI32;
template <>
inline constexpr DType kDTypeOf<uint8_t> = DType::kU8;

/// "cpu", or one GPU "cuda:i".
struct Device {
  enum class Kind { kCpu, kCuda };
  Kind kind = Kind::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};
std::ostream& operator<<(std::ostream& out, Device device);

/// Sizes of up to four axes, outermost first; a scalar has none.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes);

  int rank() const { return rank_; }
  /// Size of an axis; negative axes count from the last.
  int64_t operator[](int axis) const {
    return sizes_[static_cast<size_t>(axis < 0 ? axis + rank_ : axis)];
  }
  int64_t numel() const;  ///< number of elements; 1 for a scalar
  /// The same shape with another outermost size.
  Shape with_first(int64_t size) const;
  bool operator==(const Shape&) const = default;

 private:
  std::array<int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};
std::ostream& operator<<(std::ostream& out, const Shape& shape);  ///< "[2, 3]"

}  // namespace clip
