// The contrastive loss in tiles. With s = exp(logit_scale), I and T the gathered embeddings, this
// rank's rows give
//   S1 = s I_rank T_allᵀ, S2 = s T_rank I_allᵀ   [N, G], tile by tile, never kept
// whose log-sum-exps per row are gathered: 2 G numbers. With Li, Lt those of all image and text
// rows,
//   Z = exp(S1 - Li[row]) + exp(S1 - Lt[col]) - 2 [row = col],   dI_rank = s / (2 G) Z T_all,
// likewise dT_rank from S2; so gradients of local rows come out complete, without a reduce-scatter.
#include "autograd/loss_tiles.h"
#include "autograd/ops.h"

namespace clip {
namespace {

/// One direction of the loss: local rows of one kind against all columns of the other.
struct Direction {
  Tensor log_sum_exp;  // [N]
  Tensor diagonal;     // [N], scaled cosines of the pairs
};

Direction direction_forward(const Tensor& rows, const Tensor& columns, const Tensor& logit_scale,
                            int64_t first_row, int64_t tile_columns) {
  Backend& backend = rows.backend();
  Direction result;
  result.log_sum_exp = Tensor::empty(backend, {rows.size(0)}, rows.dtype());
  result.diagonal = Tensor::like(result.log_sum_exp);
  Tensor row_max = Tensor::like(result.log_sum_exp), row_sum = Tensor::like(result.log_sum_exp);
  for_tiles(rows, columns, tile_columns,
            [&](int64_t first_column, const Tensor&, const Tensor& cosines) {
              backend.clip_loss_tile_forward(row_max, row_sum, result.diagonal, cosines,
                                             logit_scale, first_row, first_column);
            });
  backend.clip_loss_log_sum_exp(result.log_sum_exp, row_max, row_sum);
  return result;
}

}  // namespace

Variable clip_loss(const Variable& image_features, const Variable& text_features,
                   const Variable& logit_scale, Communicator& comm, int64_t tile_columns) {
  check_pairs("clip_loss", image_features, text_features, tile_columns);
  check_scalar("clip_loss", "logit_scale", logit_scale, image_features.dtype());
  Backend& backend = image_features.backend();
  const Tensor images = image_features.value(), texts = text_features.value(),
               scale = logit_scale.value();
  const int64_t first_row = comm.rank() * images.size(0),
                global_rows = comm.size() * images.size(0);

  const Tensor all_images = gathered(images, comm), all_texts = gathered(texts, comm);
  comm.wait();
  const Direction image = direction_forward(images, all_texts, scale, first_row, tile_columns);
  const Direction text = direction_forward(texts, all_images, scale, first_row, tile_columns);
  const Tensor all_image_lse = gathered(image.log_sum_exp, comm),
               all_text_lse = gathered(text.log_sum_exp, comm);
  comm.wait();
  Tensor loss = Tensor::empty(backend, {}, images.dtype());
  backend.clip_loss_reduce(loss, image.log_sum_exp, text.log_sum_exp, image.diagonal, global_rows);

  return record(
      "clip_loss", loss, {image_features, text_features, logit_scale},
      [=, &backend, image_features = image_features.gradient_only(),
       text_features = text_features.gradient_only()](const Tensor& dloss) {
        Tensor row_dots = Tensor::empty(backend, {images.size(0)}, images.dtype());
        Tensor no_dots;  // both directions hold the same sum for logit_scale: it is taken from the
                         // image rows alone
        const auto backward = [&](const Variable& features, const Tensor& rows,
                                  const Tensor& columns, const Tensor& row_lse,
                                  const Tensor& column_lse, Tensor& dots) {
          backward_tiles(features, rows, columns, tile_columns,
                         [&](int64_t first, Tensor& tile, Accumulate to_dots) {
                           backend.clip_loss_tile_backward(
                               tile, dots, row_lse, column_lse.slice(first, first + tile.width()),
                               scale, dloss, first_row, first, global_rows, to_dots);
                         });
        };
        backward(image_features, images, all_texts, image.log_sum_exp, all_text_lse, row_dots);
        if (text_features.requires_grad())
          backward(text_features, texts, all_images, text.log_sum_exp, all_image_lse, no_dots);
        if (auto [dscale, to_dscale] = logit_scale.gradient_slot(); dscale)
          backend.sum(dscale, row_dots, to_dscale);
      });
}

}  // namespace clip
