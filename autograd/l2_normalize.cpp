#include "autograd/ops.h"

namespace clip {

Variable l2_normalize(const Variable& x) {
  CLIP_CHECK(x.rank() == 2, "[l2_normalize] x must be [N, E], got ", x.shape());
  Backend& backend = x.backend();
  Tensor y = Tensor::like(x.value());
  Tensor inverse_norm = Tensor::empty(backend, {x.size(0)}, x.dtype());
  backend.l2_normalize_forward(y, inverse_norm, x.value());
  return record("l2_normalize", y, {x}, [=, &backend, x = x.gradient_only()](const Tensor& dy) {
    auto [dx, to_dx] = x.gradient_slot();
    backend.l2_normalize_backward(dx, dy, y, inverse_norm, to_dx);
  });
}

}  // namespace clip
