// The contrastive loss in tiles. With s = exp(logit_scale), I and T the gathered embeddings, this
// rank's rows give
//   S1 = s I_rank T_allᵀ, S2 = s T_rank I_allᵀ   [N, G], tile by tile, never kept; S2's part of the
//   rank's own images is S1's of its own texts, transposed: with one rank, all of it
// whose log-sum-exps per row are gathered: 2 G numbers. With Li, Lt those of all image and text
// rows,
//   Z = exp(S1 - Li[row]) + exp(S1 - Lt[col]) - 2 [row = col],   dI_rank = s / (2 G) Z T_all,
// likewise dT_rank from S2; so gradients of local rows come out complete, without a reduce-scatter.
#include "autograd/loss_tiles.h"
#include "autograd/ops.h"

namespace clip {
namespace {

/// One direction of the loss: local rows of one kind against all columns of the other.
class Direction {
 public:
  Direction(const Tensor& rows, int64_t first_row)
      : log_sum_exp(Tensor::empty(rows.backend(), {rows.size(0)}, rows.dtype())),
        diagonal(Tensor::like(log_sum_exp)),
        first_row_(first_row),
        row_max_(Tensor::like(log_sum_exp)),
        row_sum_(Tensor::like(log_sum_exp)) {}

  /// Folds a tile [n, M] of the n local rows from `begin` on into their sums.
  void fold(int64_t begin, const Tensor& cosines, const Tensor& logit_scale, int64_t first_column,
            Accumulate to_rows) {
    const int64_t end = begin + cosines.size(0);
    Tensor maxima = row_max_.slice(begin, end), sums = row_sum_.slice(begin, end),
           pairs = diagonal.slice(begin, end);
    cosines.backend().clip_loss_tile_forward(maxima, sums, pairs, cosines, logit_scale,
                                             first_row_ + begin, first_column, to_rows);
  }
  void finish() { log_sum_exp.backend().clip_loss_log_sum_exp(log_sum_exp, row_max_, row_sum_); }

  Tensor log_sum_exp;  ///< [N]
  Tensor diagonal;     ///< [N], scaled cosines of the pairs

 private:
  int64_t first_row_;
  Tensor row_max_, row_sum_;
};

Tensor transposed(const Tensor& x) {
  Tensor y = Tensor::empty(x.backend(), {1, x.width(), x.size(0)}, x.dtype());
  x.backend().transpose_matrices(y, x.reshape({1, x.size(0), x.width()}), Accumulate::kNo);
  return y.reshape({x.width(), x.size(0)});
}

}  // namespace

Variable clip_loss(const Variable& image_features, const Variable& text_features,
                   const Variable& logit_scale, Communicator& comm, int64_t tile_columns) {
  check_pairs("clip_loss", image_features, text_features, tile_columns);
  check_scalar("clip_loss", "logit_scale", logit_scale, image_features.dtype());
  Backend& backend = image_features.backend();
  const Tensor images = image_features.value(), texts = text_features.value(),
               scale = logit_scale.value();
  const GlobalPairs pairs = global_pairs(images, texts, comm, tile_columns);
  const int64_t first_row = pairs.first_row, global_rows = pairs.global_rows();

  Direction image(images, first_row), text(texts, first_row);
  pairs.for_own_tiles([&](int64_t first, const Tensor& cosines, const Tensor&) {
    image.fold(0, cosines, scale, first, first == first_row ? Accumulate::kNo : Accumulate::kYes);
    text.fold(first - first_row, transposed(cosines), scale, first_row, Accumulate::kNo);
  });
  const auto fold_others = [&](Direction& direction, const Tensor& local, const Tensor& columns) {
    pairs.for_other_tiles(local, columns, [&](int64_t first, const Tensor& cosines, const Tensor&) {
      direction.fold(0, cosines, scale, first, Accumulate::kYes);
    });
    direction.finish();
  };
  fold_others(image, images, pairs.all_texts);
  fold_others(text, texts, pairs.all_images);
  const Tensor all_image_lse = gathered(image.log_sum_exp, comm),
               all_text_lse = gathered(text.log_sum_exp, comm);
  comm.wait();
  Tensor loss = Tensor::empty(backend, {}, images.dtype());
  backend.clip_loss_reduce(loss, image.log_sum_exp, text.log_sum_exp, image.diagonal, global_rows);

  const int64_t one_direction = images.numel() * global_rows;
  return record(
      {"clip_loss", products(pairs.cosine_products(), pairs.cosine_products() + 2 * one_direction)},
      loss, {image_features, text_features, logit_scale},
      [=, &backend, image_lse = image.log_sum_exp, text_lse = text.log_sum_exp,
       image_features = image_features.gradient_only(),
       text_features = text_features.gradient_only()](const Tensor& dloss) {
        Tensor row_dots = Tensor::empty(backend, {images.size(0)}, images.dtype());
        Tensor no_dots;  // both directions hold the same sum for logit_scale: it is taken from the
                         // image rows alone
        const auto gradients = [&](Tensor& tile, Tensor& dots, const Tensor& row_lse,
                                   const Tensor& column_lse, int64_t first, Accumulate to_dots) {
          backend.clip_loss_tile_backward(tile, dots, row_lse,
                                          column_lse.slice(first, first + tile.width()), scale,
                                          dloss, first_row, first, global_rows, to_dots);
        };
        backward_tiles(
            pairs, image_features, text_features,
            [&](int64_t first, Tensor& tile, Accumulate to_dots) {
              gradients(tile, row_dots, image_lse, all_text_lse, first, to_dots);
            },
            [&](int64_t first, Tensor& tile) {
              gradients(tile, no_dots, text_lse, all_image_lse, first, Accumulate::kNo);
            });
        if (auto [dscale, to_dscale] = logit_scale.gradient_slot(); dscale)
          backend.sum(dscale, row_dots, to_dscale);
      });
}

}  // namespace clip
