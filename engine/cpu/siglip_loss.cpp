// The pairwise sigmoid loss, tile by tile: engine/backend.h says what a tile is.
#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/segments.h"
#include "engine/scalar_math.h"

namespace clip {
namespace {

/// Logits of a row: s cos + b.
template <class T>
struct Logits {
  T scale, bias;

  Logits(const Tensor& logit_scale, const Tensor& logit_bias)
      : scale(scale_of(*logit_scale.data<T>())), bias(*logit_bias.data<T>()) {}
  T operator()(T cosine) const { return scale * cosine + bias; }
};

/// A row's columns without its pair's: [0, end) and [begin, columns).
struct Others {
  int64_t end, begin;
  bool hold_pair() const { return begin > end; }
};

Others other_columns(int64_t pair, int64_t columns) {
  if (pair < 0 || pair >= columns) return {columns, columns};
  return {pair, pair + 1};
}

template <class T>
T loss_of_others(const T* cosines, const Logits<T>& logits, int64_t begin, int64_t end) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t c = begin; c < end; ++c) total += softplus(logits(cosines[c]));
  return total;
}

/// Sums over some of a row's columns.
template <class T>
struct Sums {
  T gradients = 0, dots = 0;  // of the logits' gradients, and of them times cosine
};

/// Logits' gradients factor sigmoid(l), for the pair -factor sigmoid(-l); cosines -> s times that.
template <class T>
Sums<T> gradients_of_others(T* cosines, const Logits<T>& logits, T factor, int64_t begin,
                            int64_t end) {
  T gradients = 0, dots = 0;
#pragma omp simd reduction(+ : gradients, dots)
  for (int64_t c = begin; c < end; ++c) {
    const T cosine = cosines[c], gradient = factor * sigmoid(logits(cosine));
    cosines[c] = logits.scale * gradient;
    gradients += gradient;
    dots += gradient * cosine;
  }
  return {gradients, dots};
}

}  // namespace

void CpuBackend::siglip_loss_tile_forward(Tensor& row_losses, const Tensor& cosines,
                                          const Tensor& logit_scale, const Tensor& logit_bias,
                                          int64_t first_row, int64_t first_column,
                                          int64_t global_rows, Accumulate to_row_losses) {
  for_real("siglip_loss", cosines.dtype(), [&]<class T>(T) {
    const int64_t columns = cosines.width();
    const Logits<T> logits(logit_scale, logit_bias);
    const T* tile = cosines.data<T>();
    T* losses = row_losses.data<T>();
    parallel_for(cosines.size(0), [=](int64_t row) {
      const T* tile_row = tile + row * columns;
      const int64_t pair = first_row + row - first_column;
      const Others others = other_columns(pair, columns);
      T loss = loss_of_others(tile_row, logits, 0, others.end) +
               loss_of_others(tile_row, logits, others.begin, columns);
      if (others.hold_pair()) loss += softplus(-logits(tile_row[pair]));
      loss /= static_cast<T>(global_rows);
      losses[row] = to_row_losses == Accumulate::kYes ? losses[row] + loss : loss;
    });
  });
}

void CpuBackend::siglip_loss_tile_backward(Tensor& cosines, Tensor& row_dots, Tensor& row_sums,
                                           const Tensor& logit_scale, const Tensor& logit_bias,
                                           const Tensor& dloss, int64_t first_row,
                                           int64_t first_column, int64_t global_rows,
                                           Accumulate to_rows) {
  for_real("siglip_loss", cosines.dtype(), [&]<class T>(T) {
    const int64_t columns = cosines.width();
    const Logits<T> logits(logit_scale, logit_bias);
    const T factor = *dloss.data<T>() / static_cast<T>(global_rows);
    T *tile = cosines.data<T>(), *dots = optional_data<T>(row_dots),
      *sums = optional_data<T>(row_sums);
    parallel_for(cosines.size(0), [=](int64_t row) {
      T* tile_row = tile + row * columns;
      const int64_t pair = first_row + row - first_column;
      const Others others = other_columns(pair, columns);
      Sums<T> total = gradients_of_others(tile_row, logits, factor, 0, others.end);
      const Sums<T> rest = gradients_of_others(tile_row, logits, factor, others.begin, columns);
      total.gradients += rest.gradients;
      total.dots += rest.dots;
      if (others.hold_pair()) {
        const T cosine = tile_row[pair], gradient = -factor * sigmoid(-logits(cosine));
        tile_row[pair] = logits.scale * gradient;
        total.gradients += gradient;
        total.dots += gradient * cosine;
      }
      if (dots == nullptr) return;
      const bool add = to_rows == Accumulate::kYes;
      dots[row] = (add ? dots[row] : T(0)) + logits.scale * total.dots;
      sums[row] = (add ? sums[row] : T(0)) + total.gradients;
    });
  });
}

}  // namespace clip
