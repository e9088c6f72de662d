#include "autograd/ops.h"

namespace clip {

Variable avg_pool(const Variable& x, int64_t side) {
  CLIP_CHECK(x.rank() == 4 && side > 0 && x.size(1) % side == 0 && x.size(2) % side == 0,
             "[avg_pool] x must be [N, H, W, C] with H and W multiples of ", side, ", got ",
             x.shape());
  Backend& backend = x.backend();
  Tensor y =
      Tensor::empty(backend, {x.size(0), x.size(1) / side, x.size(2) / side, x.size(3)}, x.dtype());
  backend.avg_pool_forward(y, x.value());
  return record("avg_pool", y, {x.gradient_only()},
                [=, &backend, x = x.gradient_only()](const Tensor& dy) {
                  auto [dx, to_dx] = x.gradient_slot();
                  backend.avg_pool_backward(dx, dy, to_dx);
                });
}

Variable mean_rows(const Variable& x, int64_t count) {
  CLIP_CHECK(x.rank() == 2 && count > 0 && x.size(0) % count == 0, "[mean_rows] x must be [N * ",
             count, ", C], got ", x.shape());
  Backend& backend = x.backend();
  const int64_t images = x.size(0) / count, width = x.width();
  // A map of one column, whose windows are whole columns.
  const Shape map = {images, count, 1, width}, means = {images, 1, 1, width};
  Tensor y = Tensor::empty(backend, means, x.dtype());
  backend.avg_pool_forward(y, x.value().reshape(map));
  return record("mean_rows", y.reshape({images, width}), {x.gradient_only()},
                [=, &backend, x = x.gradient_only()](const Tensor& dy) {
                  auto [dx, to_dx] = x.gradient_slot();
                  Tensor dmap = dx.reshape(map);
                  backend.avg_pool_backward(dmap, dy.reshape(means), to_dx);
                });
}

Variable mean_token(const Variable& x, const Variable& positions) {
  CLIP_CHECK(x.rank() == 4 && x.size(1) * x.size(2) > 0,
             "[mean_token] x must be [N, H, W, C], got ", x.shape());
  const int64_t tokens = x.size(1) * x.size(2) + 1, width = x.width();
  const Shape expected = {tokens, width};
  CLIP_CHECK(positions.shape() == expected, "[mean_token] positions must be ", expected, ", got ",
             positions.shape());
  Backend& backend = x.backend();
  Tensor y = Tensor::empty(backend, {x.size(0) * tokens, width}, x.dtype());
  backend.mean_token_forward(y, x.value(), positions.value());
  return record("mean_token", y, {x.gradient_only(), positions},
                [=, &backend, x = x.gradient_only()](const Tensor& dy) {
                  auto [dx, to_dx] = x.gradient_slot();
                  auto [dpositions, to_dpositions] = positions.gradient_slot();
                  backend.mean_token_backward(dx, dpositions, dy, to_dx, to_dpositions);
                });
}

}  // namespace clip
