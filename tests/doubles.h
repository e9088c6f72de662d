// The numbers of a tensor, as tests compare them.
#pragma once

#include <vector>

#include "engine/tensor.h"

namespace clip {

/// The values of a float tensor as F64; all but BF16's widened here, not by the kernel under test.
inline std::vector<double> to_doubles(const Tensor& tensor) {
  if (tensor.dtype() == DType::kF64) return tensor.to_vector<double>();
  const std::vector<float> values = tensor.as_dtype(DType::kF32).to_vector<float>();
  return {values.begin(), values.end()};
}

}  // namespace clip
