#include "autograd/ops.h"

namespace clip {
Variable patch_embedding(const Tensor& images, const Variable& weight,
                         const PixelStatistics& pixels) {
  CLIP_CHECK(weight.rank() == 4 && weight.size(1) == 3 && weight.size(2) == weight.size(3),
             "[patch_embedding] weight must be [C, 3, K, K], got ", weight.shape());
  const int64_t patch = weight.size(2), patch_numbers = 3 * patch * patch, width = weight.size(0);
  CLIP_CHECK(images.rank() == 4 && images.dtype() == DType::kU8 &&
                 images.size(1) == images.size(2) && images.size(3) == 3 &&
                 images.size(1) % patch == 0,
             "[patch_embedding] images must be u8 [N, S, S, 3] with S a multiple of ", patch,
             ", got ", images.dtype(), " ", images.shape());
  Backend& backend = weight.backend();
  const int64_t per_side = images.size(1) / patch, rows = images.size(0) * per_side * per_side;
  Tensor patches = Tensor::empty(backend, {rows, patch_numbers}, weight.dtype());
  backend.extract_patches(patches, images, patch, pixels.mean.data(), pixels.std.data());
  Tensor y = Tensor::empty(backend, {rows, width}, weight.dtype());
  const Shape matrix = {width, patch_numbers};
  backend.matmul(y, patches, Transpose::kNo, weight.value().reshape(matrix), Transpose::kYes, {});
  const int64_t multiply_adds = y.numel() * patch_numbers;
  const Op op{"patch_embedding", products(multiply_adds, multiply_adds)};
  return record(op, y, {weight, Variable(images)}, [=, &backend](const Tensor& dy) {
    auto [dweight, to_dweight] = weight.gradient_slot();
    Tensor dmatrix = dweight.reshape(matrix);
    backend.matmul(dmatrix, dy, Transpose::kYes, patches, Transpose::kNo,
                   {.accumulate = to_dweight});
  });
}

Variable assemble_tokens(const Variable& x, const Variable& class_token,
                         const Variable& positions) {
  CLIP_CHECK(positions.rank() == 2 && positions.size(0) >= 1,
             "[assemble_tokens] positions must be [P + 1, C], got ", positions.shape());
  const int64_t tokens = positions.size(0), width = positions.width(), patches = tokens - 1;
  CLIP_CHECK(x.rank() == 2 && x.width() == width && patches > 0 && x.size(0) % patches == 0,
             "[assemble_tokens] x must be [N * ", patches, ", ", width, "], got ", x.shape());
  CLIP_CHECK(class_token.shape() == Shape{width}, "[assemble_tokens] class_token must be [", width,
             "], got ", class_token.shape());
  Backend& backend = x.backend();
  Tensor y = Tensor::empty(backend, {x.size(0) / patches * tokens, width}, x.dtype());
  backend.assemble_tokens_forward(y, x.value(), class_token.value(), positions.value());
  return record("assemble_tokens", y, {x.gradient_only(), class_token, positions},
                [=, &backend, x = x.gradient_only()](const Tensor& dy) {
                  auto [dx, to_dx] = x.gradient_slot();
                  auto [dclass_token, to_dclass_token] = class_token.gradient_slot();
                  auto [dpositions, to_dpositions] = positions.gradient_slot();
                  backend.assemble_tokens_backward(dx, dclass_token, dpositions, dy, to_dx,
                                                   to_dclass_token, to_dpositions);
                });
}

}  // namespace clip
