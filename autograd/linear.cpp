#include "autograd/ops.h"

namespace clip {
namespace {

void check_float(const char* op, const Variable& x, const Variable& weight) {
  CLIP_CHECK(x.dtype() == weight.dtype(), "[", op, "] x and weight must share one dtype, got ",
             x.dtype(), " and ", weight.dtype());
}

/// y = x Wᵀ (+ b), stored as `dtype`.
Variable product(const char* op, const Variable& x, const Variable& weight, const Variable& bias,
                 DType dtype) {
  CLIP_CHECK(x.rank() == 2 && weight.rank() == 2 && x.width() == weight.width(), "[", op,
             "] x [R, K] and weight [M, K] must agree in K, got ", x.shape(), " and ",
             weight.shape());
  CLIP_CHECK(!bias.defined() || bias.shape() == Shape{weight.size(0)}, "[", op, "] bias must be [",
             weight.size(0), "], got ", bias.shape());
  check_float(op, x, weight);
  Backend& backend = x.backend();
  Tensor y = Tensor::empty(backend, {x.size(0), weight.size(0)}, dtype);
  backend.matmul(y, x.value(), Transpose::kNo, weight.value(), Transpose::kYes, {});
  if (bias.defined()) backend.add_bias(y, bias.value().as_dtype(dtype));
  const Op counted{op, one_product(x, weight, y.numel() * x.width())};
  return record(counted, y, {x, weight, bias}, [=, &backend](const Tensor& dy) {
    if (auto [dx, to_dx] = x.gradient_slot(); dx)  // dy W
      backend.matmul(dx, dy, Transpose::kNo, weight.value(), Transpose::kNo, {.accumulate = to_dx});
    if (auto [dweight, to_dweight] = weight.gradient_slot(); dweight)  // dyᵀ x
      backend.matmul(dweight, dy, Transpose::kYes, x.value(), Transpose::kNo,
                     {.accumulate = to_dweight});
    if (auto [dbias, to_dbias] = bias.gradient_slot(); dbias)
      backend.column_sums(dbias, dy, to_dbias);
  });
}

}  // namespace

Variable linear(const Variable& x, const Variable& weight, const Variable& bias) {
  return product("linear", x, weight, bias, x.dtype());
}

Variable project(const Variable& x, const Variable& weight, const Variable& bias) {
  return product("project", x, weight, bias, sum_dtype(x.dtype()));
}

Variable project(const Variable& x, const Variable& weight) {
  CLIP_CHECK(x.rank() == 2 && weight.rank() == 2 && x.width() == weight.size(0),
             "[project] x [N, C] and weight [C, E] must agree in C, got ", x.shape(), " and ",
             weight.shape());
  check_float("project", x, weight);
  Backend& backend = x.backend();
  Tensor y = Tensor::empty(backend, {x.size(0), weight.size(1)}, sum_dtype(x.dtype()));
  backend.matmul(y, x.value(), Transpose::kNo, weight.value(), Transpose::kNo, {});
  const Op op{"project", one_product(x, weight, y.numel() * x.width())};
  return record(op, y, {x, weight}, [=, &backend](const Tensor& dy) {
    if (auto [dx, to_dx] = x.gradient_slot(); dx)  // dy Wᵀ
      backend.matmul(dx, dy, Transpose::kNo, weight.value(), Transpose::kYes,
                     {.accumulate = to_dx});
    if (auto [dweight, to_dweight] = weight.gradient_slot(); dweight)  // xᵀ dy
      backend.matmul(dweight, x.value(), Transpose::kYes, dy, Transpose::kNo,
                     {.accumulate = to_dweight});
  });
}

Variable slice_rows(const Variable& x, int64_t begin, int64_t end) {
  CLIP_CHECK(x.rank() >= 1 && 0 <= begin && begin <= end && end <= x.size(0), "[slice_rows] rows ",
             begin, " to ", end, " are not within ", x.shape());
  const Tensor rows_of_x = x.value().slice(begin, end);
  const Variable y = record({"slice_rows", moves(0, 2 * rows_of_x.bytes())}, rows_of_x, {x},
                            [=, x = x.gradient_only()](const Tensor& dy) {
                              auto [dx, to_dx] = x.gradient_slot();
                              if (to_dx == Accumulate::kNo) dx.backend().fill_zero(dx);
                              Tensor rows = dx.slice(begin, end);
                              rows.backend().add(rows, dy);
                            });
  y.set_gradient_dtype(x.gradient_dtype());
  return y;
}

}  // namespace clip
