#include "autograd/ops.h"

namespace clip {

Variable bias_gelu(const Variable& x, const Variable& bias, Gelu kind) {
  CLIP_CHECK(x.rank() == 2, "[bias_gelu] x must be [R, C], got ", x.shape());
  CLIP_CHECK(bias.shape() == Shape{x.width()}, "[bias_gelu] bias must be [", x.width(), "], got ",
             bias.shape());
  Backend& backend = x.backend();
  Tensor y = Tensor::like(x.value());
  backend.bias_gelu_forward(y, x.value(), bias.value(), kind);
  return record("bias_gelu", y, {x, bias}, [=, &backend](const Tensor& dy) {
    auto [dx, to_dx] = x.gradient_slot();
    auto [dbias, to_dbias] = bias.gradient_slot();
    backend.bias_gelu_backward(dx, dbias, dy, x.value(), bias.value(), kind, to_dx, to_dbias);
  });
}

}  // namespace clip
