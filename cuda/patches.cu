// The image tower's way in: pixels to patches, and patches to tokens.
#include "cuda/column_sums.cuh"
#include "cuda/cuda_backend.h"

namespace clip {
namespace {

struct Normalization {
  float mean[3], std[3];
};

/// One thread for each number of the patches. The divisions round as PyTorch's transforms do.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    extract_patches_kernel(T* patches, const uint8_t* images, int size, int patch_size,
                           Normalization normalization, int64_t count) {
  const int64_t at = grid_thread();
  if (at >= count) return;
  const int grid = size / patch_size, area = patch_size * patch_size;
  const int64_t patch = at / (3 * area), image = patch / (grid * grid);
  const int i = static_cast<int>(at % (3 * area)), place = static_cast<int>(patch % (grid * grid));
  const int channel = i / area, y = i % area / patch_size, x = i % patch_size;
  const int64_t row = image * size + place / grid * patch_size + y;
  const uint8_t pixel = images[(row * size + place % grid * patch_size + x) * 3 + channel];
  const float mean = channel == 0   ? normalization.mean[0]
                     : channel == 1 ? normalization.mean[1]
                                    : normalization.mean[2];
  const float std = channel == 0   ? normalization.std[0]
                    : channel == 1 ? normalization.std[1]
                                   : normalization.std[2];
  assign(patches[at], (static_cast<float>(pixel) / 255.0f - mean) / std);
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    assemble_tokens_forward_kernel(T* y, const T* x, const T* class_token, const T* positions,
                                   int64_t rows, int64_t tokens, int64_t width) {
  const int64_t row = warp_row();
  if (row >= rows) return;
  const int64_t image = row / tokens, place = row % tokens;
  const T* from = place == 0 ? class_token : x + (image * (tokens - 1) + place - 1) * width;
  const T* position = positions + place * width;
  for_row_vectors<T>(width, [=](int64_t column, int64_t left) {
    float values[kVector<T>], added[kVector<T>];
    load_vector(values, from + column, left);
    load_vector(added, position + column, left);
    for (int i = 0; i < kVector<T>; ++i) values[i] += added[i];
    store_vector(y + row * width + column, values, left);
  });
}

/// dx (+)= the rows of dy without the class tokens'.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    assemble_tokens_backward_kernel(T* dx, const T* dy, bool add, int64_t rows, int64_t tokens,
                                    int64_t width) {
  const int64_t row = warp_row();
  if (row >= rows) return;
  const int64_t image = row / (tokens - 1), place = row % (tokens - 1) + 1;
  const T* from = dy + (image * tokens + place) * width;
  for_row_vectors<T>(width, [=](int64_t column, int64_t left) {
    float values[kVector<T>];
    load_vector(values, from + column, left);
    put_vector(dx + row * width + column, values, left, add);
  });
}

}  // namespace

void CudaBackend::extract_patches(Tensor& patches, const Tensor& images, int64_t patch_size,
                                  const float mean[3], const float std[3]) {
  if (patches.numel() == 0) return;
  const Normalization normalization = {{mean[0], mean[1], mean[2]}, {std[0], std[1], std[2]}};
  for_cuda_float("extract_patches", patches.dtype(), [&]<class T>(T) {
    launch("extract_patches", extract_patches_kernel<T>, thread_per_item(patches.numel()),
           compute_stream(), patches.data<T>(), images.data<uint8_t>(), images.size(1), patch_size,
           normalization, patches.numel());
  });
}

void CudaBackend::assemble_tokens_forward(Tensor& y, const Tensor& x, const Tensor& class_token,
                                          const Tensor& positions) {
  if (y.numel() == 0) return;
  for_cuda_float("assemble_tokens", y.dtype(), [&]<class T>(T) {
    launch("assemble_tokens_forward", assemble_tokens_forward_kernel<T>, warp_per_row(y.rows()),
           compute_stream(), y.data<T>(), x.data<T>(), class_token.data<T>(), positions.data<T>(),
           y.rows(), positions.size(0), y.width());
  });
}

void CudaBackend::assemble_tokens_backward(Tensor& dx, Tensor& dclass_token, Tensor& dpositions,
                                           const Tensor& dy, Accumulate to_dx,
                                           Accumulate to_dclass_token, Accumulate to_dpositions) {
  CLIP_CHECK(dx || dpositions,
             "[assemble_tokens] the gradient of the class token alone is not offered: the number "
             "of patches comes from dx or dpositions");
  const int64_t width = dy.width();
  const int64_t images = dx ? dy.rows() - dx.rows() : dy.rows() / dpositions.size(0);
  const int64_t tokens = dy.rows() / (images > 0 ? images : 1);
  const cudaStream_t stream = compute_stream();
  if (dx && dx.numel() > 0) {
    for_cuda_float("assemble_tokens", dy.dtype(), [&]<class T>(T) {
      launch("assemble_tokens_backward", assemble_tokens_backward_kernel<T>,
             warp_per_row(dx.rows()), stream, dx.data<T>(), dy.data<T>(), to_dx == Accumulate::kYes,
             dx.rows(), tokens, width);
    });
  }
  if (!dclass_token && !dpositions) return;
  // An image's tokens are one long row: sums over images are column sums, the class token's first.
  const int64_t columns = dpositions ? dpositions.numel() : width;
  const Tensor partials = partial_column_sums(stream, dy, images, tokens * width, columns);
  add_segments(stream, {{dpositions, to_dpositions}}, partials, columns);
  add_segments(stream, {{dclass_token, to_dclass_token}}, partials, width);
}

}  // namespace clip
