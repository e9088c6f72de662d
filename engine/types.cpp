#include "engine/types.h"

namespace clip {

int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
      return 2;
    case DType::kU8:
      return 1;
  }
  throw Error("unknown dtype");
}

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF64:
      return "f64";
    case DType::kI32:
      return "i32";
    case DType::kU8:
      return "u8";
  }
  return "unknown";
}

std::ostream& operator<<(std::ostream& out, Device device) {
  if (device.kind == Device::Kind::kCpu) return out << "cpu";
  return out << "cuda:" << device.index;
}

Shape::Shape(std::initializer_list<int64_t> sizes) : rank_(static_cast<int>(sizes.size())) {
  CLIP_CHECK(rank_ <= kMaxRank, "[Shape] at most ", kMaxRank, " axes, got ", rank_);
  size_t axis = 0;
  for (int64_t size : sizes) {
    CLIP_CHECK(size >= 0, "[Shape] sizes must not be negative, got ", size);
    sizes_[axis++] = size;
  }
}

int64_t Shape::numel() const {
  int64_t product = 1;
  for (int axis = 0; axis < rank_; ++axis) product *= (*this)[axis];
  return product;
}

Shape Shape::with_first(int64_t size) const {
  Shape shape = *this;
  shape.sizes_[0] = size;
  return shape;
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '[';
  for (int axis = 0; axis < shape.rank(); ++axis) out << (axis == 0 ? "" : ", ") << shape[axis];
  return out << ']';
}

}  // namespace clip
