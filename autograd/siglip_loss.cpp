// The pairwise sigmoid loss in tiles. With s = exp(logit_scale), I and T the gathered embeddings and
// z = 1 where row and column are a pair, -1 elsewhere, this rank's image rows give
//   L = s I_rank T_allᵀ + b   [N, G], tile by tile, never kept;   loss = sum ln(1 + exp(-z L)) / G
//   Z = -z sigmoid(-z L) / G,   dI_rank = s Z T_all,   db = sum Z,   dlogit_scale = sum Z (L - b).
// Every pair is one image row's, so the shares of loss, db and dlogit_scale come from image rows
// alone. dT_rank comes from the same tiles of s T_rank I_allᵀ + b, so that gradients of local rows
// come out complete, without a reduce-scatter. No row needs a sum over others: nothing but the
// embeddings is gathered.
#include "autograd/loss_tiles.h"
#include "autograd/ops.h"

namespace clip {

Variable siglip_loss(const Variable& image_features, const Variable& text_features,
                     const Variable& logit_scale, const Variable& logit_bias, Communicator& comm,
                     int64_t tile_columns) {
  check_pairs("siglip_loss", image_features, text_features, tile_columns);
  check_scalar("siglip_loss", "logit_scale", logit_scale, image_features.dtype());
  check_scalar("siglip_loss", "logit_bias", logit_bias, image_features.dtype());
  Backend& backend = image_features.backend();
  const Tensor images = image_features.value(), texts = text_features.value(),
               scale = logit_scale.value(), bias = logit_bias.value();
  const GlobalPairs pairs = global_pairs(images, texts, comm, tile_columns);
  const int64_t first_row = pairs.first_row, global_rows = pairs.global_rows();

  Tensor row_losses = Tensor::empty(backend, {images.size(0)}, images.dtype());
  pairs.for_tiles(images, pairs.all_texts, 0, global_rows,
                  [&](int64_t first, const Tensor& cosines, const Tensor&) {
                    backend.siglip_loss_tile_forward(
                        row_losses, cosines, scale, bias, first_row, first, global_rows,
                        first == 0 ? Accumulate::kNo : Accumulate::kYes);
                  });
  Tensor loss = Tensor::empty(backend, {}, images.dtype());
  backend.sum(loss, row_losses, Accumulate::kNo);

  const int64_t one_direction = images.numel() * global_rows;
  return record(
      {"siglip_loss", products(one_direction, pairs.cosine_products() + 2 * one_direction)}, loss,
      {image_features, text_features, logit_scale, logit_bias},
      [=, &backend, image_features = image_features.gradient_only(),
       text_features = text_features.gradient_only()](const Tensor& dloss) {
        Tensor row_dots = Tensor::empty(backend, {images.size(0)}, images.dtype());
        Tensor row_sums = Tensor::like(row_dots), none;
        const auto gradients = [&](Tensor& tile, Tensor& dots, Tensor& sums, int64_t first,
                                   Accumulate to_rows) {
          backend.siglip_loss_tile_backward(tile, dots, sums, scale, bias, dloss, first_row, first,
                                            global_rows, to_rows);
        };
        backward_tiles(
            pairs, image_features, text_features,
            [&](int64_t first, Tensor& tile, Accumulate to_rows) {
              gradients(tile, row_dots, row_sums, first, to_rows);
            },
            [&](int64_t first, Tensor& tile) {
              gradients(tile, none, none, first, Accumulate::kNo);
            });
        if (auto [dscale, to_dscale] = logit_scale.gradient_slot(); dscale)
          backend.sum(dscale, row_dots, to_dscale);
        if (auto [dbias, to_dbias] = logit_bias.gradient_slot(); dbias)
          backend.sum(dbias, row_sums, to_dbias);
      });
}

}  // namespace clip
