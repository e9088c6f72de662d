// The image tower's way in: pixels to patches, and patches to tokens.
#include <algorithm>
#include <array>

#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/segments.h"

namespace clip {
namespace {

/// (pixel / 255 - mean) / std for every pixel value of each channel, rounded as PyTorch's
/// transforms round it.
template <class T>
std::array<std::array<T, 256>, 3> normalized_pixels(const float mean[3], const float std[3]) {
  using R = Real<T>;
  std::array<std::array<T, 256>, 3> values;
  for (size_t channel = 0; channel < 3; ++channel) {
    for (size_t pixel = 0; pixel < 256; ++pixel) {
      assign(values[channel][pixel],
             (static_cast<R>(pixel) / R(255) - static_cast<R>(mean[channel])) /
                 static_cast<R>(std[channel]));
    }
  }
  return values;
}

}  // namespace

void CpuBackend::extract_patches(Tensor& patches, const Tensor& images, int64_t patch_size,
                                 const float mean[3], const float std[3]) {
  for_float("extract_patches", patches.dtype(), [&]<class T>(T) {
    const auto values = normalized_pixels<T>(mean, std);
    const int64_t size = images.size(1), grid = size / patch_size;
    const int64_t patch_elements = 3 * patch_size * patch_size;
    T* out = patches.data<T>();
    const uint8_t* pixels = images.data<uint8_t>();
    // One task per row of patches: image, then row of the grid.
    parallel_for(images.size(0) * grid, [&, out, pixels](int64_t task) {
      const int64_t image = task / grid, grid_row = task % grid;
      T* patch = out + task * grid * patch_elements;
      for (int64_t grid_column = 0; grid_column < grid; ++grid_column) {
        for (int64_t channel = 0; channel < 3; ++channel) {
          const auto& value_of = values[static_cast<size_t>(channel)];
          for (int64_t y = 0; y < patch_size; ++y) {
            const int64_t pixel_row = image * size + grid_row * patch_size + y;
            const uint8_t* from = pixels + (pixel_row * size + grid_column * patch_size) * 3;
            for (int64_t x = 0; x < patch_size; ++x) *patch++ = value_of[from[3 * x + channel]];
          }
        }
      }
    });
  });
}

void CpuBackend::assemble_tokens_forward(Tensor& y, const Tensor& x, const Tensor& class_token,
                                         const Tensor& positions) {
  for_float("assemble_tokens", y.dtype(), [&]<class T>(T) {
    const int64_t width = y.width(), tokens = positions.size(0);
    T* out = y.data<T>();
    const T *in = x.data<T>(), *first = class_token.data<T>(), *position = positions.data<T>();
    parallel_for(y.rows(), [=](int64_t row) {
      const int64_t image = row / tokens, place = row % tokens;
      const T* from = place == 0 ? first : in + (image * (tokens - 1) + place - 1) * width;
      T* to = out + row * width;
      const T* p = position + place * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) assign(to[c], to_real(from[c]) + to_real(p[c]));
    });
  });
}

void CpuBackend::assemble_tokens_backward(Tensor& dx, Tensor& dclass_token, Tensor& dpositions,
                                          const Tensor& dy, Accumulate to_dx,
                                          Accumulate to_dclass_token, Accumulate to_dpositions) {
  CLIP_CHECK(dx || dpositions,
             "[assemble_tokens] the gradient of the class token alone is not offered: the number "
             "of patches comes from dx or dpositions");
  for_float("assemble_tokens", dy.dtype(), [&]<class T>(T) {
    const int64_t width = dy.width();
    const int64_t images = dx ? dy.rows() - dx.rows() : dy.rows() / dpositions.size(0);
    const int64_t tokens = dy.rows() / std::max<int64_t>(images, 1);
    T* patch_rows = optional_data<T>(dx);
    Real<T>* class_row = optional_data<Real<T>>(dclass_token);
    Real<T>* position_rows = optional_data<Real<T>>(dpositions);
    const T* dys = dy.data<T>();
    // One task per place: it adds over the images in order, and dy is read once.
    parallel_for(tokens, [=](int64_t place) {
      for (int64_t image = 0; image < images; ++image) {
        const T* from = dys + (image * tokens + place) * width;
        const auto or_later = [=](Accumulate to) { return image == 0 ? to : Accumulate::kYes; };
        if (position_rows != nullptr) {
          put_row(position_rows + place * width, from, width, or_later(to_dpositions));
        }
        if (place == 0) {
          if (class_row != nullptr) put_row(class_row, from, width, or_later(to_dclass_token));
        } else if (patch_rows != nullptr) {
          put_row(patch_rows + (image * (tokens - 1) + place - 1) * width, from, width, to_dx);
        }
      }
    });
  });
}

}  // namespace clip
