#include "autograd/ops.h"

namespace clip {
namespace {

void check_norm(const char* op, const Variable& x, const Variable& weight, const Variable& bias) {
  CLIP_CHECK(x.rank() == 2, "[", op, "] x must be [R, C], got ", x.shape());
  CLIP_CHECK(weight.shape() == Shape{x.width()}, "[", op, "] weight must be [", x.width(),
             "], got ", weight.shape());
  CLIP_CHECK(bias.shape() == Shape{x.width()}, "[", op, "] bias must be [", x.width(), "], got ",
             bias.shape());
}

}  // namespace

Variable layer_norm(const Variable& x, const Variable& weight, const Variable& bias, double eps) {
  check_norm("layer_norm", x, weight, bias);
  Backend& backend = x.backend();
  Tensor y = Tensor::like(x.value());
  Tensor mean = Tensor::empty(backend, {x.size(0)}, sum_dtype(x.dtype()));
  Tensor rstd = Tensor::like(mean);
  backend.layer_norm_forward(y, mean, rstd, x.value(), weight.value(), bias.value(), eps);
  return record("layer_norm", y, {x, weight, bias}, [=, &backend](const Tensor& dy) {
    auto [dx, to_dx] = x.gradient_slot();
    auto [dweight, to_dweight] = weight.gradient_slot();
    auto [dbias, to_dbias] = bias.gradient_slot();
    backend.layer_norm_backward(dx, dweight, dbias, dy, x.value(), mean, rstd, weight.value(),
                                to_dx, to_dweight, to_dbias);
  });
}

ResidualNorm bias_residual_layer_norm(const Variable& residual, const Variable& x,
                                      const Variable& x_bias, const Variable& weight,
                                      const Variable& bias, double eps) {
  const char* op = "bias_residual_layer_norm";
  check_norm(op, x, weight, bias);
  CLIP_CHECK(residual.shape() == x.shape(), "[", op, "] residual must be ", x.shape(), ", got ",
             residual.shape());
  CLIP_CHECK(!x_bias.defined() || x_bias.shape() == Shape{x.width()}, "[", op, "] x_bias must be [",
             x.width(), "], got ", x_bias.shape());
  Backend& backend = x.backend();
  Tensor sum = Tensor::like(x.value());
  Tensor y = Tensor::like(sum);
  Tensor mean = Tensor::empty(backend, {x.size(0)}, sum_dtype(x.dtype()));
  Tensor rstd = Tensor::like(mean);
  backend.bias_residual_layer_norm_forward(sum, y, mean, rstd, residual.value(), x.value(),
                                           x_bias.defined() ? x_bias.value() : Tensor(),
                                           weight.value(), bias.value(), eps);
  // x's value stands for that of sum, which backward reads.
  auto outputs = record(op, {sum, y}, {residual.gradient_only(), x, x_bias, weight, bias},
                        [=, &backend, residual = residual.gradient_only(),
                         x = x.gradient_only()](const std::vector<Tensor>& dys) {
                          const Tensor &dsum = dys[0], &dy = dys[1];
                          auto [dx_bias, to_dx_bias] = x_bias.gradient_slot();
                          Tensor dtotal = dsum;
                          if (dy) {
                            // The gradient of sum is nobody else's any more unless it was adopted: it can take the total.
                            if (!dsum || !dsum.is_unique()) dtotal = Tensor::like(sum);
                            auto [dweight, to_dweight] = weight.gradient_slot();
                            auto [dbias, to_dbias] = bias.gradient_slot();
                            backend.bias_residual_layer_norm_backward(
                                dtotal, dx_bias, dweight, dbias, dsum, dy, sum, mean, rstd,
                                weight.value(), to_dx_bias, to_dweight, to_dbias);
                          } else if (dx_bias) {  // only the sum was used
                            backend.column_sums(dx_bias, dsum, to_dx_bias);
                          }
                          residual.accept_gradient(dtotal);  // one tensor serves both: no copy
                          x.accept_gradient(dtotal);
                        });
  return {outputs[0], outputs[1]};
}

}  // namespace clip
