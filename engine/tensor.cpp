#include "engine/tensor.h"

#include "engine/backend.h"

namespace clip {

Storage::Storage(Backend& backend, int64_t bytes)
    : backend_(backend), size_(bytes), bytes_(static_cast<std::byte*>(backend.allocate(bytes))) {}

Storage::~Storage() { backend_.release(bytes_, size_); }

Tensor Tensor::empty(Backend& backend, const Shape& shape, DType dtype) {
  Tensor tensor;
  tensor.shape_ = shape;
  tensor.dtype_ = dtype;
  tensor.storage_ = std::make_shared<Storage>(backend, tensor.bytes());
  return tensor;
}

Tensor Tensor::zeros(Backend& backend, const Shape& shape, DType dtype) {
  Tensor tensor = empty(backend, shape, dtype);
  backend.fill_zero(tensor);
  return tensor;
}

Tensor Tensor::like(const Tensor& other) {
  return empty(other.backend(), other.shape_, other.dtype_);
}

Tensor Tensor::from_bytes(Backend& backend, const Shape& shape, DType dtype, const void* host) {
  Tensor tensor = empty(backend, shape, dtype);
  tensor.copy_from_host(host);
  return tensor;
}

Backend& Tensor::backend() const {
  CLIP_CHECK(defined(), "[Tensor] an undefined tensor has no device");
  return storage_->backend();
}

Tensor Tensor::reshape(const Shape& shape) const {
  CLIP_CHECK(shape.numel() == numel(), "[Tensor::reshape] ", shape_, " has ", numel(),
             " elements, ", shape, " has ", shape.numel());
  Tensor view = *this;
  view.shape_ = shape;
  return view;
}

Tensor Tensor::slice(int64_t begin, int64_t end) const {
  CLIP_CHECK(rank() > 0 && 0 <= begin && begin <= end && end <= shape_[0], "[Tensor::slice] rows ",
             begin, " to ", end, " are not within ", shape_);
  Tensor view = *this;
  view.shape_ = shape_.with_first(end - begin);
  const int64_t row_bytes = shape_.with_first(1).numel() * size_of(dtype_);
  view.offset_ += begin * row_bytes;
  return view;
}

Tensor Tensor::clone() const {
  Tensor copy = like(*this);
  backend().copy(copy, *this);
  return copy;
}

Tensor Tensor::as_dtype(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor converted = empty(backend(), shape_, dtype);
  backend().convert(converted, *this);
  return converted;
}

void Tensor::copy_to_host(void* host) const { backend().copy_to_host(host, raw(), bytes()); }

void Tensor::copy_from_host(const void* host) { backend().copy_from_host(raw(), host, bytes()); }

double Tensor::item() const {
  CLIP_CHECK(numel() == 1, "[Tensor::item] one element expected, got shape ", shape_);
  return dtype_ == DType::kF64 ? to_vector<double>()[0]
                               : static_cast<double>(to_vector<float>()[0]);
}

void* Tensor::checked_data(DType dtype) const {
  CLIP_CHECK(dtype == dtype_, "[Tensor::data] the tensor holds ", dtype_, ", asked for ", dtype);
  return raw();
}

}  // namespace clip
