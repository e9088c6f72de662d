// Resizing as Pillow computes it, and the transforms of CLIP that are built on it.
//
// A value is a sum of 8-bit pixels times 22-bit fixed-point weights, rounded to 8 bits after the
// first pass and again after the second. Integer sums do not depend on their order, so the loops
// are free to be fast. Both passes only compute what the wanted part of the result needs.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "engine/check.h"
#include "models/image.h"
#include "models/preprocess.h"

namespace clip {

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

namespace {

constexpr int kPrecisionBits = 32 - 8 - 2;  // an 8-bit pixel, and two bits for overshoot and sign
constexpr int64_t kChannels = 3;
constexpr int64_t kMaxSide = 1 << 24;  // whole numbers up to here are exact in single precision

/// A picture or a part of it; row y starts at pixels + y * stride.
struct View {
  const uint8_t* pixels = nullptr;
  int64_t width = 0, height = 0, stride = 0;
};

View view_of(const Image& image) {
  CLIP_CHECK(0 < image.width && image.width <= kMaxSide && 0 < image.height &&
                 image.height <= kMaxSide && image.width * image.height <= kMaxImagePixels &&
                 std::ssize(image.pixels) == image.width * image.height * kChannels,
             "[resize] a picture must have 1 to ", kMaxImagePixels, " pixels of 3 bytes, at most ",
             kMaxSide, " on a side, got ", image.width, " x ", image.height, " and ",
             image.pixels.size(), " bytes");
  return {image.pixels.data(), image.width, image.height, image.width * kChannels};
}

View part_of(const View& view, const Rectangle& part) {
  return {view.pixels + part.top * view.stride + part.left * kChannels, part.width, part.height,
          view.stride};
}

double bilinear(double x) { return std::max(1 - std::abs(x), 0.0); }

/// For each output of a pass: the first input it reads, how many, and their weights in fixed point.
struct Taps {
  std::vector<int64_t> first, count;
  std::vector<int32_t> weights;  ///< [outputs, stride]
  int64_t stride = 0;

  int64_t begin() const { return first.front(); }
  int64_t end() const { return first.back() + count.back(); }
};

/// Taps of outputs [skip, skip + wanted) when inputs [from, to) of `inputs` become `outputs`.
/// Pillow keeps `from` and `to` in single precision.
Taps make_taps(Interpolation kind, int64_t inputs, float from, float to, int64_t outputs,
               int64_t skip, int64_t wanted) {
  const bool is_cubic = kind == Interpolation::kBicubic;
  const double scale = static_cast<double>(to - from) / static_cast<double>(outputs);
  const double spread = std::max(scale, 1.0);  // shrinking widens the filter: antialiasing
  const double support = (is_cubic ? 2 : 1) * spread, narrow = 1 / spread;
  Taps taps;
  taps.stride = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  taps.weights.resize(static_cast<size_t>(wanted * taps.stride));
  std::vector<double> exact(static_cast<size_t>(taps.stride));
  for (int64_t i = 0; i < wanted; ++i) {
    const double center = from + (static_cast<double>(skip + i) + 0.5) * scale;
    const auto first = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    const auto last = std::min(static_cast<int64_t>(center + support + 0.5), inputs);
    double sum = 0;
    for (int64_t t = 0; t < last - first; ++t) {
      const double distance = static_cast<double>(first + t) - center + 0.5;
      const double x = distance * narrow;
      sum += exact[static_cast<size_t>(t)] = is_cubic ? bicubic(x) : bilinear(x);
    }
    for (int64_t t = 0; t < last - first; ++t) {
      const double weight = exact[static_cast<size_t>(t)] / sum * (1 << kPrecisionBits);
      taps.weights[static_cast<size_t>(i * taps.stride + t)] =
          static_cast<int32_t>(weight + std::copysign(0.5, weight));
    }
    taps.first.push_back(first);
    taps.count.push_back(last - first);
  }
  return taps;
}

constexpr int64_t kLanes = 32;  // sums kept in registers: four vectors of eight
constexpr int64_t kRows = 32;   // rows that the horizontal pass takes together

/// out[j] = the sum over t of weights[t] * in[t * stride + j], for kLanes neighbours j.
void weigh(uint8_t* out, const uint8_t* in, int64_t stride, const int32_t* weights, int64_t count) {
  std::array<int32_t, kLanes> sums;
  sums.fill(1 << (kPrecisionBits - 1));
  for (int64_t t = 0; t < count; ++t, in += stride) {
#pragma omp simd
    for (size_t j = 0; j < kLanes; ++j) sums[j] += weights[t] * in[j];
  }
#pragma omp simd
  for (size_t j = 0; j < kLanes; ++j) {
    out[j] = static_cast<uint8_t>(std::clamp(sums[j] >> kPrecisionBits, 0, 255));
  }
}

/// The taps weigh columns of `in`, whose first column is column taps.begin() of the picture.
void horizontal_pass(uint8_t* out, const View& in, const Taps& taps) {
  // Rows side by side, [columns, kRows, 3]: neighbours have the same weight.
  constexpr int64_t kColumn = kRows * kChannels;
  static_assert(kColumn % kLanes == 0);
  std::vector<uint8_t> columns(static_cast<size_t>(in.width * kColumn));
  const auto outputs = std::ssize(taps.first);
  for (int64_t y = 0; y < in.height; y += kRows) {
    for (int64_t r = 0; r < kRows; ++r) {
      // The last row stands in for those past the end.
      const uint8_t* row = in.pixels + std::min(y + r, in.height - 1) * in.stride;
      uint8_t* column = columns.data() + r * kChannels;
      for (int64_t x = 0; x < in.width; ++x, column += kColumn) {
        std::memcpy(column, row + x * kChannels, kChannels);
      }
    }
    const int64_t rows = std::min(kRows, in.height - y);
    for (int64_t x = 0; x < outputs; ++x) {
      const auto i = static_cast<size_t>(x);
      const uint8_t* first = columns.data() + (taps.first[i] - taps.begin()) * kColumn;
      std::array<uint8_t, kColumn> values;
      for (int64_t j = 0; j < kColumn; j += kLanes) {
        weigh(values.data() + j, first + j, kColumn, taps.weights.data() + x * taps.stride,
              taps.count[i]);
      }
      for (int64_t r = 0; r < rows; ++r) {
        std::memcpy(out + ((y + r) * outputs + x) * kChannels, values.data() + r * kChannels,
                    kChannels);
      }
    }
  }
}

/// The taps weigh rows of `in`, whose first row is row taps.begin() of the picture.
void vertical_pass(uint8_t* out, const View& in, const Taps& taps) {
  const int64_t bytes = in.width * kChannels;
  for (int64_t y = 0; y < std::ssize(taps.first); ++y, out += bytes) {
    const auto i = static_cast<size_t>(y);
    const uint8_t* rows = in.pixels + (taps.first[i] - taps.begin()) * in.stride;
    const int32_t* weights = taps.weights.data() + y * taps.stride;
    int64_t x = 0;
    for (; x + kLanes <= bytes; x += kLanes) {
      weigh(out + x, rows + x, in.stride, weights, taps.count[i]);
    }
    for (; x < bytes; ++x) {
      int32_t sum = 1 << (kPrecisionBits - 1);
      for (int64_t t = 0; t < taps.count[i]; ++t) sum += weights[t] * rows[t * in.stride + x];
      out[x] = static_cast<uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255));
    }
  }
}

/// Pillow 13 and later: the vertical pass comes first where it takes more than twice as many rows
/// away as the horizontal pass takes columns.
bool is_vertical_first(const View& in, int64_t width, int64_t height) {
  const int64_t rows_less = in.height - height, columns_less = in.width - width;
  return rows_less > 0 && rows_less > 2 * columns_less;
}

/// The `wanted` part of the picture that `box` of `in` becomes at width x height.
Image resize_part(View in, const Box& box, int64_t width, int64_t height, const Rectangle& wanted,
                  Interpolation kind = Interpolation::kBicubic) {
  const auto left = static_cast<float>(box.left), right = static_cast<float>(box.right);
  const auto top = static_cast<float>(box.top), bottom = static_cast<float>(box.bottom);
  // A pass that would change nothing is left out, as Pillow does.
  const bool keeps_columns = width == in.width && left == 0 && right == static_cast<float>(width);
  const bool keeps_rows = height == in.height && top == 0 && bottom == static_cast<float>(height);
  const bool vertical_first = is_vertical_first(in, width, height);

  Taps horizontal, vertical;
  Rectangle needed = wanted;
  if (!keeps_columns) {
    horizontal = make_taps(kind, in.width, left, right, width, wanted.left, wanted.width);
    needed.left = horizontal.begin();
    needed.width = horizontal.end() - needed.left;
  }
  if (!keeps_rows) {
    vertical = make_taps(kind, in.height, top, bottom, height, wanted.top, wanted.height);
    needed.top = vertical.begin();
    needed.height = vertical.end() - needed.top;
  }
  in = part_of(in, needed);

  // In this order of the passes, what is between them is never larger than both ends.
  std::vector<uint8_t> result;  // of the last pass that was taken
  const auto take_pass = [&](const Taps& taps, auto pass, int64_t new_width, int64_t new_height) {
    if (taps.first.empty()) return;
    std::vector<uint8_t> out(static_cast<size_t>(new_width * new_height * kChannels));
    pass(out.data(), in, taps);
    result = std::move(out);
    in = {result.data(), new_width, new_height, new_width * kChannels};
  };
  if (vertical_first) take_pass(vertical, vertical_pass, in.width, wanted.height);
  take_pass(horizontal, horizontal_pass, wanted.width, in.height);
  if (!vertical_first) take_pass(vertical, vertical_pass, in.width, wanted.height);

  if (keeps_columns && keeps_rows) {
    for (int64_t y = 0; y < in.height; ++y) {
      const uint8_t* row = in.pixels + y * in.stride;
      result.insert(result.end(), row, row + in.width * kChannels);
    }
  }
  return {wanted.width, wanted.height, std::move(result)};
}

Box whole(const View& view) {
  return {0, 0, static_cast<double>(view.width), static_cast<double>(view.height)};
}

void check_size(const char* op, int64_t width, int64_t height) {
  CLIP_CHECK(width > 0 && height > 0 && width <= kMaxImagePixels / height, "[", op,
             "] the result must have 1 to ", kMaxImagePixels, " pixels, got ", width, " x ",
             height);
}

/// Half of a distance, rounded half to even, as Python's round() does.
int64_t half_to_even(int64_t distance) {
  const int64_t half = distance / 2;
  return half + (distance % 2) * (half % 2);
}

}  // namespace

Image resize_bicubic(const Image& image, int64_t width, int64_t height, const Box& box) {
  const View view = view_of(image);
  check_size("resize_bicubic", width, height);
  const Box limits = whole(view);
  CLIP_CHECK(box.left >= 0 && box.top >= 0 && box.right <= limits.right &&
                 box.bottom <= limits.bottom && box.left < box.right && box.top < box.bottom,
             "[resize_bicubic] the box must be a part of the picture of ", view.width, " x ",
             view.height, ", got [", box.left, ", ", box.right, ") x [", box.top, ", ", box.bottom,
             ")");
  return resize_part(view, box, width, height, {0, 0, width, height});
}

Image resize_bicubic(const Image& image, int64_t width, int64_t height) {
  return resize_bicubic(image, width, height, whole(view_of(image)));
}

Image resize_and_center_crop(const Image& image, int64_t size) {
  return prepare_image(image, size, {});
}

namespace {

/// `image`, no larger than `size` either way, in the middle of a square of one grey.
Image pad(Image image, int64_t size, uint8_t grey) {
  if (image.width == size && image.height == size) return image;
  Image square{size, size,
               std::vector<uint8_t>(static_cast<size_t>(size * size * kChannels), grey)};
  const int64_t left = (size - image.width) / 2, top = (size - image.height) / 2;
  const int64_t bytes = image.width * kChannels;
  for (int64_t y = 0; y < image.height; ++y) {
    std::copy_n(image.pixels.data() + y * bytes, bytes,
                square.pixels.data() + ((top + y) * size + left) * kChannels);
  }
  return square;
}

Image fit_longest_side(const View& view, int64_t size, const Preprocess& rules) {
  const auto target = static_cast<double>(size);
  const auto w = static_cast<double>(view.width), h = static_cast<double>(view.height);
  const double ratio = std::max(w / target, h / target);
  // nearbyint rounds half to even, as Python does.
  const auto width = static_cast<int64_t>(std::nearbyint(w / ratio));
  const auto height = static_cast<int64_t>(std::nearbyint(h / ratio));
  CLIP_CHECK(width > 0 && height > 0, "a picture of ", view.width, " x ", view.height,
             " is too narrow to be fitted into ", size, " x ", size);
  return pad(
      resize_part(view, whole(view), width, height, {0, 0, width, height}, rules.interpolation),
      size, rules.fill_color);
}

}  // namespace

Image prepare_image(const Image& image, int64_t size, const Preprocess& rules) {
  const View view = view_of(image);
  check_size("prepare_image", size, size);
  if (rules.resize_mode == ResizeMode::kLongest) return fit_longest_side(view, size, rules);
  if (rules.resize_mode == ResizeMode::kSquash) {
    return resize_part(view, whole(view), size, size, {0, 0, size, size}, rules.interpolation);
  }
  const int64_t target = rules.short_side > 0 ? rules.short_side : size;
  CLIP_CHECK(target >= size, "[prepare_image] the short side of a resized picture, ", target,
             ", must not be less than that of the crop, ", size);
  const int64_t short_side = std::min(view.width, view.height);
  const int64_t width = target * view.width / short_side;
  const int64_t height = target * view.height / short_side;
  const auto middle = [&](int64_t margin) {
    return rules.crop_rounding == CropRounding::kDown ? margin / 2 : half_to_even(margin);
  };
  return resize_part(view, whole(view), width, height,
                     {middle(width - size), middle(height - size), size, size},
                     rules.interpolation);
}

Rectangle random_crop(int64_t width, int64_t height, double min_scale, double max_scale,
                      Random& random) {
  CLIP_CHECK(width > 0 && height > 0, "[random_crop] the picture must have pixels, got ", width,
             " x ", height);
  CLIP_CHECK(0 < min_scale && min_scale <= max_scale && max_scale <= 1,
             "[random_crop] the scales must be 0 < minimum <= maximum <= 1, got ", min_scale,
             " and ", max_scale);
  constexpr double kMinAspect = 3.0 / 4.0, kMaxAspect = 4.0 / 3.0;
  const auto w = static_cast<double>(width), h = static_cast<double>(height);
  // nearbyint rounds half to even, as Python does.
  const auto round = [](double x) { return static_cast<int64_t>(std::nearbyint(x)); };

  for (int attempt = 0; attempt < 10; ++attempt) {
    const double area = w * h * random.uniform(min_scale, max_scale);
    const double aspect = std::exp(random.uniform(std::log(kMinAspect), std::log(kMaxAspect)));
    const int64_t crop_width = round(std::sqrt(area * aspect));
    const int64_t crop_height = round(std::sqrt(area / aspect));
    if (0 < crop_width && crop_width <= width && 0 < crop_height && crop_height <= height) {
      const int64_t top = random.below(height - crop_height + 1);
      const int64_t left = random.below(width - crop_width + 1);
      return {left, top, crop_width, crop_height};
    }
  }
  Rectangle crop = {0, 0, width, height};
  if (w / h < kMinAspect) crop.height = round(w / kMinAspect);
  if (w / h > kMaxAspect) crop.width = round(h * kMaxAspect);
  crop.left = (width - crop.width) / 2;
  crop.top = (height - crop.height) / 2;
  return crop;
}

Image random_resized_crop(const Image& image, int64_t size, double min_scale, double max_scale,
                          Random& random) {
  check_size("random_resized_crop", size, size);
  const View view = view_of(image);
  const View crop =
      part_of(view, random_crop(view.width, view.height, min_scale, max_scale, random));
  return resize_part(crop, whole(crop), size, size, {0, 0, size, size});
}

}  // namespace clip
