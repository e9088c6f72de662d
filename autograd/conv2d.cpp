// A 3 x 3 convolution is a product of windows, laid out as rows a few images at a time; a 1 x 1
// convolution is a product as it is.
#include <algorithm>

#include "autograd/ops.h"

namespace clip {
namespace {

/// What the windows of some images may take at once. They are made again in backward rather than
/// kept: they are nine times the map.
constexpr int64_t kColumnBytes = 24 << 20;

/// Runs body(first image, one past the last, columns [rows, 9 C]) for a map [N, H, W, C] whose
/// convolution is [N, H', W', O].
template <class Body>
void for_chunks(const Tensor& map, const Shape& y, const Body& body) {
  const int64_t rows = y[1] * y[2], numbers = 9 * map.size(3);
  const int64_t image_bytes = std::max<int64_t>(1, rows * numbers * size_of(map.dtype()));
  const int64_t chunk =
      std::clamp<int64_t>(kColumnBytes / image_bytes, 1, std::max<int64_t>(1, y[0]));
  Tensor columns = Tensor::empty(map.backend(), {chunk * rows, numbers}, map.dtype());
  for (int64_t first = 0; first < y[0]; first += chunk) {
    const int64_t end = std::min(y[0], first + chunk);
    Tensor used = columns.slice(0, (end - first) * rows);
    body(first, end, used);
  }
}

/// [O, 9 C], in the windows' order, of a weight [O, C, 3, 3].
Tensor window_matrix(const Tensor& weight) {
  const int64_t outputs = weight.size(0), channels = weight.size(1);
  Tensor matrix = Tensor::empty(weight.backend(), {outputs, 9, channels}, weight.dtype());
  weight.backend().transpose_matrices(matrix, weight.reshape({outputs, channels, 9}),
                                      Accumulate::kNo);
  return matrix.reshape({outputs, 9 * channels});
}

Variable conv1x1(const Variable& x, const Variable& weight) {
  Backend& backend = x.backend();
  const Shape matrix = {weight.size(0), weight.size(1)};
  Tensor y = Tensor::empty(backend, {x.size(0), x.size(1), x.size(2), matrix[0]}, x.dtype());
  backend.matmul(y, x.value(), Transpose::kNo, weight.value().reshape(matrix), Transpose::kYes, {});
  const Op op{"conv2d", one_product(x, weight, y.numel() * matrix[1])};
  return record(op, y, {x, weight}, [=, &backend](const Tensor& dy) {
    if (auto [dx, to_dx] = x.gradient_slot(); dx)
      backend.matmul(dx, dy, Transpose::kNo, weight.value().reshape(matrix), Transpose::kNo,
                     {.accumulate = to_dx});
    if (auto [dweight, to_dweight] = weight.gradient_slot(); dweight) {
      Tensor dmatrix = dweight.reshape(matrix);
      backend.matmul(dmatrix, dy, Transpose::kYes, x.value(), Transpose::kNo,
                     {.accumulate = to_dweight});
    }
  });
}

Variable conv3x3(const Variable& x, const Variable& weight, int64_t stride) {
  Backend& backend = x.backend();
  const Shape shape = {x.size(0), (x.size(1) - 1) / stride + 1, (x.size(2) - 1) / stride + 1,
                       weight.size(0)};
  Tensor y = Tensor::empty(backend, shape, x.dtype());
  const Tensor matrix = window_matrix(weight.value());
  for_chunks(x.value(), shape, [&](int64_t first, int64_t end, Tensor& columns) {
    backend.im2col(columns, x.value().slice(first, end), stride);
    Tensor rows = y.slice(first, end);
    backend.matmul(rows, columns, Transpose::kNo, matrix, Transpose::kYes, {});
  });
  const Op op{"conv2d", one_product(x, weight, y.numel() * matrix.width())};
  return record(op, y, {x, weight}, [=, &backend](const Tensor& dy) {
    auto [dx, to_dx] = x.gradient_slot();
    auto [dweight, to_dweight] = weight.gradient_slot();
    Tensor dmatrix;
    if (dweight) dmatrix = Tensor::empty(backend, matrix.shape(), dweight.dtype());
    for_chunks(x.value(), shape,
               [&, &dx_all = dx, to = to_dx](int64_t first, int64_t end, Tensor& columns) {
                 const Tensor rows = dy.slice(first, end);
                 if (dmatrix) {
                   backend.im2col(columns, x.value().slice(first, end), stride);
                   backend.matmul(dmatrix, rows, Transpose::kYes, columns, Transpose::kNo,
                                  {.accumulate = first == 0 ? Accumulate::kNo : Accumulate::kYes});
                 }
                 if (dx_all) {
                   backend.matmul(columns, rows, Transpose::kNo, matrix, Transpose::kNo, {});
                   Tensor dx_rows = dx_all.slice(first, end);
                   backend.col2im(dx_rows, columns, stride, to);
                 }
               });
    if (!dmatrix) return;
    const int64_t outputs = weight.size(0), channels = weight.size(1);
    Tensor by_channel = dweight.reshape({outputs, channels, 9});
    backend.transpose_matrices(by_channel, dmatrix.reshape({outputs, 9, channels}), to_dweight);
  });
}

}  // namespace

Variable conv2d(const Variable& x, const Variable& weight, int64_t stride) {
  CLIP_CHECK(x.rank() == 4 && x.shape().numel() > 0, "[conv2d] x must be [N, H, W, C], got ",
             x.shape());
  const int64_t side = weight.rank() == 4 ? weight.size(2) : 0;
  CLIP_CHECK((side == 1 || side == 3) && weight.size(3) == side && weight.size(1) == x.size(3),
             "[conv2d] weight must be [O, ", x.size(3), ", K, K] with K 1 or 3, got ",
             weight.shape());
  CLIP_CHECK(stride == 1 || (stride == 2 && side == 3),
             "[conv2d] the stride must be 1, or 2 with a weight of 3 x 3, got ", stride);
  CLIP_CHECK(x.dtype() == weight.dtype(), "[conv2d] x and weight must share one dtype, got ",
             x.dtype(), " and ", weight.dtype());
  return side == 1 ? conv1x1(x, weight) : conv3x3(x, weight, stride);
}

}  // namespace clip
