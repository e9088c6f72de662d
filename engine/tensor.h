// Tensor: a contiguous block of numbers on one device. No strides: views are reshapes and
// leading-axis slices.
#pragma once

#include <memory>
#include <vector>

#include "engine/types.h"

namespace clip {

class Backend;

/// Bytes on one device, from that device's allocator; returned to it when the last Tensor goes.
class Storage {
 public:
  Storage(Backend& backend, int64_t bytes);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  Backend& backend() const { return backend_; }
  std::byte* bytes() const { return bytes_; }

 private:
  Backend& backend_;
  int64_t size_;
  std::byte* bytes_;
};

class Tensor {
 public:
  Tensor() = default;  ///< undefined: stands for "no gradient", "no bias"

  static Tensor empty(Backend& backend, const Shape& shape, DType dtype);  ///< uninitialised
  static Tensor zeros(Backend& backend, const Shape& shape, DType dtype);
  static Tensor like(const Tensor& other);  ///< uninitialised, same shape, dtype and device
  /// Copies host values to a device.
  template <class T>
  static Tensor from(Backend& backend, const Shape& shape, const std::vector<T>& values) {
    CLIP_CHECK(static_cast<int64_t>(values.size()) == shape.numel(), "[Tensor::from] shape ", shape,
               " needs ", shape.numel(), " values, got ", values.size());
    return from_bytes(backend, shape, kDTypeOf<T>, values.data());
  }
  static Tensor from_bytes(Backend& backend, const Shape& shape, DType dtype, const void* host);

  bool defined() const { return storage_ != nullptr; }
  explicit operator bool() const { return defined(); }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t size(int axis) const { return shape_[axis]; }
  int64_t numel() const { return shape_.numel(); }
  int64_t bytes() const { return numel() * size_of(dtype_); }
  /// All axes but the last as one: the tensor seen as [rows(), width()].
  int64_t rows() const { return shape_.rank() == 0 ? 1 : numel() / (width() == 0 ? 1 : width()); }
  int64_t width() const { return shape_.rank() == 0 ? 1 : shape_[-1]; }
  DType dtype() const { return dtype_; }
  Backend& backend() const;

  Tensor reshape(const Shape& shape) const;  ///< a view; throws if the number of elements differs
  Tensor slice(int64_t begin, int64_t end) const;  ///< a view of [begin, end) of the leading axis
  Tensor clone() const;                            ///< a copy in its own storage
  /// This very tensor, sharing its storage, where it has the dtype; else a converted copy.
  Tensor as_dtype(DType dtype) const;
  /// True if nothing else holds the storage, so that writing here cannot be seen elsewhere.
  bool is_unique() const { return storage_.use_count() == 1; }

  /// Device address of the first element, as T; throws if T is not the dtype.
  template <class T>
  T* data() {
    return static_cast<T*>(checked_data(kDTypeOf<T>));
  }
  template <class T>
  const T* data() const {
    return static_cast<const T*>(checked_data(kDTypeOf<T>));
  }
  void* raw() const { return storage_ == nullptr ? nullptr : storage_->bytes() + offset_; }

  /// Copies all elements to the host, as T; throws if T is not the dtype.
  template <class T>
  std::vector<T> to_vector() const {
    std::vector<T> values(static_cast<size_t>(numel()));
    checked_data(kDTypeOf<T>);
    copy_to_host(values.data());
    return values;
  }
  void copy_to_host(void* host) const;
  void copy_from_host(const void* host);
  /// The only element of an F32 or F64 tensor, on the host.
  double item() const;

 private:
  void* checked_data(DType dtype) const;

  std::shared_ptr<Storage> storage_;
  int64_t offset_ = 0;  ///< bytes
  Shape shape_;
  DType dtype_ = DType::kF32;
};

inline bool has_shape(const Tensor& tensor, const Shape& shape) {
  return tensor.defined() && tensor.shape() == shape;
}

}  // namespace clip
