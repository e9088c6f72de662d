// What the losses over the global batch share: cosines and their gradients tile by tile, so that the
// [N, G] matrix is never kept.
#pragma once

#include <algorithm>
#include <string_view>

#include "autograd/variable.h"

namespace clip {

/// Calls body(first_column, rows of `columns` in this tile, cosines [N, M] of `rows` with them).
template <class Body>
void for_tiles(const Tensor& rows, const Tensor& columns, int64_t tile_columns, const Body& body) {
  Backend& backend = rows.backend();
  for (int64_t first = 0; first < columns.size(0); first += tile_columns) {
    const Tensor tile_rows = columns.slice(first, std::min(first + tile_columns, columns.size(0)));
    Tensor cosines = Tensor::empty(backend, {rows.size(0), tile_rows.size(0)}, rows.dtype());
    backend.matmul(cosines, rows, Transpose::kNo, tile_rows, Transpose::kYes, {});
    body(first, tile_rows, cosines);
  }
}

/// The way back through for_tiles: d features (+)= gradients of the cosines times `columns`.
/// gradients_of(first_column, cosines [N, M], kNo for the first tile) turns a tile into its own.
template <class Body>
void backward_tiles(const Variable& features, const Tensor& rows, const Tensor& columns,
                    int64_t tile_columns, const Body& gradients_of) {
  GradientSlot drows = features.gradient_slot();
  for_tiles(rows, columns, tile_columns, [&](int64_t first, const Tensor& tile_rows, Tensor& tile) {
    gradients_of(first, tile, first == 0 ? Accumulate::kNo : Accumulate::kYes);
    if (!drows.gradient) return;
    rows.backend().matmul(drows.gradient, tile, Transpose::kNo, tile_rows, Transpose::kNo,
                          {.accumulate = drows.accumulate});
    drows.accumulate = Accumulate::kYes;
  });
}

/// throws clip::Error that names the op unless both are [N, E] of one dtype and tiles have columns
inline void check_pairs(std::string_view op, const Variable& image_features,
                        const Variable& text_features, int64_t tile_columns) {
  CLIP_CHECK(image_features.rank() == 2 && image_features.size(0) > 0 &&
                 image_features.shape() == text_features.shape() &&
                 image_features.dtype() == text_features.dtype(),
             "[", op, "] image and text features must both be [N, E] of one dtype, got ",
             image_features.dtype(), " ", image_features.shape(), " and ", text_features.dtype(),
             " ", text_features.shape());
  CLIP_CHECK(tile_columns > 0, "[", op, "] tile_columns must be positive, got ", tile_columns);
}

/// throws clip::Error that names op and scalar unless it is [] of this dtype
inline void check_scalar(std::string_view op, std::string_view name, const Variable& scalar,
                         DType dtype) {
  CLIP_CHECK(scalar.shape() == Shape{} && scalar.dtype() == dtype, "[", op, "] ", name,
             " must be a scalar of dtype ", dtype, ", got ", scalar.dtype(), " ", scalar.shape());
}

}  // namespace clip
