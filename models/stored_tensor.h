// A tensor as a weight file holds it: where its numbers lie, and how they become F32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/types.h"

namespace clip {

/// A tensor in a mapped file; valid as long as the file object.
struct StoredTensor {
  std::string dtype;  ///< safetensors' names: "F32", "F64", "F16", "BF16", "I32", "I64", "U8", ...
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;     ///< in elements; empty: row after row
  const std::byte* data = nullptr;  ///< the first element, at any alignment
  int64_t bytes = 0;                ///< from the first to the end of the last element

  int64_t numel() const;  ///< shapes in files are checked not to overflow
  /// F16, BF16, F32 or F64, or a single I64, as PyTorch counts batches.
  bool is_readable() const;
  StoredTensor transposed() const;  ///< of a matrix: the same numbers, seen the other way round
};

std::vector<int64_t> sizes_of(const Shape& shape);  ///< as files keep shapes

int64_t element_bytes(const std::string& dtype);  ///< 0 if there is no such dtype

/// Copies a tensor's numbers row after row to `to`, as F32 or F64. Pages of the file are given back
/// as they have been read, so that memory holds the weights once.
/// throws clip::Error if the tensor is not readable or `to_dtype` is another
void read_numbers(const StoredTensor& tensor, DType to_dtype, void* to);

/// IEEE half precision, to the nearest (ties to even); NaN stays NaN, what is too large becomes
/// infinite.
uint16_t to_half(float value);
float from_half(uint16_t bits);  ///< exact

}  // namespace clip
