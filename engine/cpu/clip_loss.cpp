// The contrastive loss, tile by tile: engine/backend.h says what a tile is. A row's maximum is
// subtracted before any exponential, so that no sum overflows.
#include <cmath>
#include <limits>

#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/segments.h"
#include "engine/scalar_math.h"

namespace clip {
namespace {

template <class T>
T scaled_maximum(const T* cosines, T scale, int64_t columns) {
  T maximum = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : maximum)
  for (int64_t c = 0; c < columns; ++c) {
    const T logit = scale * cosines[c];
    maximum = logit > maximum ? logit : maximum;
  }
  return maximum;
}

template <class T>
T sum_of_exponentials(const T* cosines, T scale, T maximum, int64_t columns) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t c = 0; c < columns; ++c) total += exponential(scale * cosines[c] - maximum);
  return total;
}

/// cosines -> factor (exp(s cos - row_lse) + exp(s cos - column_lse)); returns the sum of gradient
/// times cosine.
template <class T>
T gradient_row(T* cosines, T scale, T factor, T row_lse, const T* column_lse, int64_t columns) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t c = 0; c < columns; ++c) {
    const T cosine = cosines[c], logit = scale * cosine;
    const T gradient = factor * (exponential(logit - row_lse) + exponential(logit - column_lse[c]));
    cosines[c] = gradient;
    total += gradient * cosine;
  }
  return total;
}

}  // namespace

void CpuBackend::clip_loss_tile_forward(Tensor& row_max, Tensor& row_sum, Tensor& diagonal,
                                        const Tensor& cosines, const Tensor& logit_scale,
                                        int64_t first_row, int64_t first_column,
                                        Accumulate to_rows) {
  for_real("clip_loss", cosines.dtype(), [&]<class T>(T) {
    const int64_t columns = cosines.width();
    const T scale = scale_of(*logit_scale.data<T>());
    const T* tile = cosines.data<T>();
    T *maxima = row_max.data<T>(), *sums = row_sum.data<T>(), *pairs = diagonal.data<T>();
    const bool is_first_tile = to_rows == Accumulate::kNo;
    parallel_for(cosines.size(0), [=](int64_t row) {
      const T* tile_row = tile + row * columns;
      const T tile_maximum = scaled_maximum(tile_row, scale, columns);
      const T before = is_first_tile ? -std::numeric_limits<T>::infinity() : maxima[row];
      const T maximum = tile_maximum > before ? tile_maximum : before;
      // What was summed under the old maximum, under the new one.
      const T carried = is_first_tile ? T(0) : sums[row] * exponential(before - maximum);
      maxima[row] = maximum;
      sums[row] = carried + sum_of_exponentials(tile_row, scale, maximum, columns);
      const int64_t pair = first_row + row - first_column;
      if (pair >= 0 && pair < columns) pairs[row] = scale * tile_row[pair];
    });
  });
}

void CpuBackend::clip_loss_log_sum_exp(Tensor& log_sum_exp, const Tensor& row_max,
                                       const Tensor& row_sum) {
  for_real("clip_loss", log_sum_exp.dtype(), [&]<class T>(T) {
    T* out = log_sum_exp.data<T>();
    const T *maxima = row_max.data<T>(), *sums = row_sum.data<T>();
    for (int64_t row = 0; row < row_max.numel(); ++row) {
      out[row] = maxima[row] + std::log(sums[row]);
    }
  });
}

void CpuBackend::clip_loss_reduce(Tensor& loss, const Tensor& image_lse, const Tensor& text_lse,
                                  const Tensor& diagonal, int64_t global_rows) {
  for_real("clip_loss", loss.dtype(), [&]<class T>(T) {
    const T *image = image_lse.data<T>(), *text = text_lse.data<T>(), *pairs = diagonal.data<T>();
    double total = 0;  // F64, row after row: a few thousand numbers
    for (int64_t row = 0; row < diagonal.numel(); ++row) {
      total += (static_cast<double>(image[row]) - static_cast<double>(pairs[row])) +
               (static_cast<double>(text[row]) - static_cast<double>(pairs[row]));
    }
    *loss.data<T>() = static_cast<T>(total / (2.0 * static_cast<double>(global_rows)));
  });
}

void CpuBackend::clip_loss_tile_backward(Tensor& cosines, Tensor& row_dots, const Tensor& row_lse,
                                         const Tensor& column_lse, const Tensor& logit_scale,
                                         const Tensor& dloss, int64_t first_row,
                                         int64_t first_column, int64_t global_rows,
                                         Accumulate to_row_dots) {
  for_real("clip_loss", cosines.dtype(), [&]<class T>(T) {
    const int64_t columns = cosines.width();
    const T scale = scale_of(*logit_scale.data<T>());
    const T factor = *dloss.data<T>() * scale / (T(2) * static_cast<T>(global_rows));
    T *tile = cosines.data<T>(), *dots = optional_data<T>(row_dots);
    const T *row_lses = row_lse.data<T>(), *column_lses = column_lse.data<T>();
    parallel_for(cosines.size(0), [=](int64_t row) {
      T* tile_row = tile + row * columns;
      const int64_t pair = first_row + row - first_column;
      const bool holds_pair = pair >= 0 && pair < columns;
      const T pair_cosine = holds_pair ? tile_row[pair] : T(0);
      T dot = gradient_row(tile_row, scale, factor, row_lses[row], column_lses, columns);
      if (holds_pair) {
        tile_row[pair] -= T(2) * factor;
        dot -= T(2) * factor * pair_cosine;
      }
      if (dots != nullptr) dots[row] = to_row_dots == Accumulate::kYes ? dots[row] + dot : dot;
    });
  });
}

}  // namespace clip
