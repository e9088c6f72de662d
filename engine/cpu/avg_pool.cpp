// Means of windows, and the mean of an image as a token of its own.
#include "engine/cpu/bfloat16.h"
#include "engine/cpu/cpu_backend.h"
#include "engine/cpu/segments.h"

namespace clip {
namespace {

/// to [C] (+)= from times factor (+ other, where it is not null).
template <class T, class Sum, class From, class Other>
void put_scaled(T* to, const From* from, Sum factor, const Other* other, int64_t width,
                Accumulate accumulate) {
  const bool add = accumulate == Accumulate::kYes;
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) {
    Sum value = to_real(from[c]) * factor;
    if (other != nullptr) value += to_real(other[c]);
    assign(to[c], add ? to_real(to[c]) + value : value);
  }
}

/// Sizes of windows and of the map of their means.
struct Windows {
  int64_t rows, columns, height, width, channels;
  Windows(const Tensor& map, const Tensor& means)
      : rows(map.size(1) / means.size(1)),
        columns(map.size(2) / means.size(2)),
        height(means.size(1)),
        width(means.size(2)),
        channels(means.size(3)) {}
  double share() const { return 1.0 / static_cast<double>(rows * columns); }
};

}  // namespace

void CpuBackend::avg_pool_forward(Tensor& y, const Tensor& x) {
  for_float("avg_pool", x.dtype(), [&]<class T>(T) {
    using Sum = Real<T>;
    const Windows w(x, y);
    T* out = y.data<T>();
    const T* in = x.data<T>();
    const auto share = static_cast<Sum>(w.share());
    parallel_for(y.size(0) * w.height, [=](int64_t task) {
      std::vector<Sum> sums(static_cast<size_t>(w.channels));
      for (int64_t column = 0; column < w.width; ++column) {
        std::fill(sums.begin(), sums.end(), Sum(0));
        for (int64_t i = 0; i < w.rows * w.columns; ++i) {
          const int64_t row = task * w.rows + i / w.columns;
          const int64_t pixel = row * w.width * w.columns + column * w.columns + i % w.columns;
          put_row(sums.data(), in + pixel * w.channels, w.channels, Accumulate::kYes);
        }
        put_scaled<T, Sum, Sum, T>(out + (task * w.width + column) * w.channels, sums.data(), share,
                                   nullptr, w.channels, Accumulate::kNo);
      }
    });
  });
}

void CpuBackend::avg_pool_backward(Tensor& dx, const Tensor& dy, Accumulate to_dx) {
  for_float("avg_pool", dx.dtype(), [&]<class T>(T) {
    using Sum = Real<T>;
    const Windows w(dx, dy);
    T* out = dx.data<T>();
    const T* in = dy.data<T>();
    const auto share = static_cast<Sum>(w.share());
    const int64_t width = dx.size(2);
    parallel_for(dx.size(0) * dx.size(1), [=](int64_t row) {
      for (int64_t column = 0; column < width; ++column) {
        const int64_t from = row / w.rows * w.width + column / w.columns;
        put_scaled<T, Sum, T, T>(out + (row * width + column) * w.channels, in + from * w.channels,
                                 share, nullptr, w.channels, to_dx);
      }
    });
  });
}

void CpuBackend::mean_token_forward(Tensor& y, const Tensor& x, const Tensor& positions) {
  for_float("mean_token", x.dtype(), [&]<class T>(T) {
    using Sum = Real<T>;
    const int64_t width = y.width(), tokens = positions.size(0), places = tokens - 1;
    T* out = y.data<T>();
    const T *in = x.data<T>(), *position = positions.data<T>();
    const Sum share = Sum(1) / static_cast<Sum>(places);
    parallel_for(y.rows() / tokens, [=](int64_t image) {
      const T* rows = in + image * places * width;
      T* to = out + image * tokens * width;
      std::vector<Sum> sums(static_cast<size_t>(width), Sum(0));
      for (int64_t place = 0; place < places; ++place) {
        put_row(sums.data(), rows + place * width, width, Accumulate::kYes);
        put_scaled(to + (place + 1) * width, rows + place * width, Sum(1),
                   position + (place + 1) * width, width, Accumulate::kNo);
      }
      put_scaled(to, sums.data(), share, position, width, Accumulate::kNo);
    });
  });
}

void CpuBackend::mean_token_backward(Tensor& dx, Tensor& dpositions, const Tensor& dy,
                                     Accumulate to_dx, Accumulate to_dpositions) {
  for_float("mean_token", dy.dtype(), [&]<class T>(T) {
    using Sum = Real<T>;
    const int64_t width = dy.width();
    const int64_t images = dx ? dy.rows() - dx.rows() : dy.rows() / dpositions.size(0);
    const int64_t tokens = dy.rows() / std::max<int64_t>(images, 1), places = tokens - 1;
    T* out = optional_data<T>(dx);
    Sum* position_rows = optional_data<Sum>(dpositions);
    const T* dys = dy.data<T>();
    const Sum share = Sum(1) / static_cast<Sum>(places);
    if (out != nullptr) {
      parallel_for(images * places, [=](int64_t row) {
        const T* mean = dys + row / places * tokens * width;
        put_scaled(out + row * width, mean, share, mean + (row % places + 1) * width, width, to_dx);
      });
    }
    if (position_rows == nullptr) return;
    // One task per place: it adds over the images in order.
    parallel_for(tokens, [=](int64_t place) {
      for (int64_t image = 0; image < images; ++image)
        put_row(position_rows + place * width, dys + (image * tokens + place) * width, width,
                image == 0 ? to_dpositions : Accumulate::kYes);
    });
  });
}

}  // namespace clip
