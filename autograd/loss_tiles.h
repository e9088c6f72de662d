// What the losses over the global batch share: cosines and their gradients tile by tile, so that the
// [N, G] matrix is never kept.
#pragma once

#include <algorithm>
#include <string_view>
#include <utility>

#include "autograd/variable.h"
#include "engine/communicator.h"

namespace clip {

/// The embeddings of the global batch as one rank has them. Tiles are [N, M]: all local rows of one
/// kind with M columns of the other, at most `tile_columns` of them.
struct GlobalPairs {
  Tensor images, texts;          ///< [N, E], this rank's
  Tensor all_images, all_texts;  ///< [G, E]
  int64_t first_row;             ///< of this rank's among all
  int64_t tile_columns;

  int64_t rows() const { return images.size(0); }
  int64_t last_row() const { return first_row + rows(); }
  int64_t global_rows() const { return all_images.size(0); }
  /// Multiply-adds of both directions' tiles.
  int64_t cosine_products() const { return images.numel() * (2 * global_rows() - rows()); }

  /// Calls body(first_column, cosines, rows of `columns` in the tile) for the columns from `begin` to
  /// `end`.
  template <class Body>
  void for_tiles(const Tensor& local, const Tensor& columns, int64_t begin, int64_t end,
                 const Body& body) const {
    for (int64_t first = begin; first < end; first += tile_columns) {
      const Tensor tile_rows = columns.slice(first, std::min(first + tile_columns, end));
      Tensor cosines = Tensor::empty(local.backend(), {rows(), tile_rows.size(0)}, local.dtype());
      local.backend().matmul(cosines, local, Transpose::kNo, tile_rows, Transpose::kYes, {});
      body(first, cosines, tile_rows);
    }
  }
  /// Images with this rank's texts: tiles that are, transposed, those of its texts with its images.
  template <class Body>
  void for_own_tiles(const Body& body) const {
    for_tiles(images, all_texts, first_row, last_row(), body);
  }
  /// Local rows of one kind with the columns of other ranks.
  template <class Body>
  void for_other_tiles(const Tensor& local, const Tensor& columns, const Body& body) const {
    for_tiles(local, columns, 0, first_row, body);
    for_tiles(local, columns, last_row(), global_rows(), body);
  }
};

/// Gathers the embeddings of all ranks.
inline GlobalPairs global_pairs(const Tensor& images, const Tensor& texts, Communicator& comm,
                                int64_t tile_columns) {
  GlobalPairs pairs{images,
                    texts,
                    gathered(images, comm),
                    gathered(texts, comm),
                    comm.rank() * images.size(0),
                    tile_columns};
  comm.wait();
  return pairs;
}

/// The way back through the tiles: d features (+)= gradients of the cosines times the columns.
/// of_images(first_column, cosines, kNo for the first tile) turns a tile of image rows into its
/// gradients, of_texts(first_column, cosines) one of text rows.
template <class OfImages, class OfTexts>
void backward_tiles(const GlobalPairs& pairs, const Variable& image_features,
                    const Variable& text_features, const OfImages& of_images,
                    const OfTexts& of_texts) {
  Backend& backend = pairs.images.backend();
  GradientSlot dimages = image_features.gradient_slot(), dtexts = text_features.gradient_slot();
  const auto add_product = [&](GradientSlot& drows, const Tensor& tile, const Tensor& columns) {
    if (!drows.gradient) return;
    backend.matmul(drows.gradient, tile, Transpose::kNo, columns, Transpose::kNo,
                   {.accumulate = drows.accumulate});
    drows.accumulate = Accumulate::kYes;
  };
  Accumulate to_dots = Accumulate::kNo;
  const auto image_tile = [&](int64_t first, Tensor& tile, const Tensor& tile_texts) {
    of_images(first, tile, std::exchange(to_dots, Accumulate::kYes));
    add_product(dimages, tile, tile_texts);
  };
  pairs.for_own_tiles([&](int64_t first, Tensor& tile, const Tensor& tile_texts) {
    image_tile(first, tile, tile_texts);
    if (!dtexts.gradient) return;
    const int64_t begin = first - pairs.first_row;
    Tensor drows = dtexts.gradient.slice(begin, begin + tile.width());
    backend.matmul(drows, tile, Transpose::kYes, pairs.images, Transpose::kNo,
                   {.accumulate = dtexts.accumulate});
  });
  pairs.for_other_tiles(pairs.images, pairs.all_texts, image_tile);
  if (!dtexts.gradient) return;
  dtexts.accumulate = Accumulate::kYes;
  pairs.for_other_tiles(pairs.texts, pairs.all_images,
                        [&](int64_t first, Tensor& tile, const Tensor& tile_images) {
                          of_texts(first, tile);
                          add_product(dtexts, tile, tile_images);
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
