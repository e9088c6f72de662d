// What the kernels of both losses share.
#pragma once

#include <cmath>

#include "engine/tensor.h"

namespace clip {

/// s = exp(logit_scale), taken in F64.
template <class T>
T scale_of(const Tensor& logit_scale) {
  return static_cast<T>(std::exp(static_cast<double>(*logit_scale.data<T>())));
}

}  // namespace clip
