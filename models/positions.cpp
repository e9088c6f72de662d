#include "models/positions.h"

#include <algorithm>

#include "models/image.h"

namespace clip {
namespace {

/// Which old places a new one is made of.
struct Window {
  int64_t first = 0;
  std::vector<double> weights;  // they sum to 1
};

Window cubic_window(int64_t place, int64_t size, int64_t new_size) {
  const double scale = static_cast<double>(size) / static_cast<double>(new_size);
  const double stretch = std::max(scale, 1.0);  // widened when shrinking: that is the antialiasing
  const double center = scale * (static_cast<double>(place) + 0.5), support = 2 * stretch;
  Window window;
  window.first = std::max<int64_t>(0, static_cast<int64_t>(center - support + 0.5));
  const int64_t end = std::min(size, static_cast<int64_t>(center + support + 0.5));
  double sum = 0;
  for (int64_t i = window.first; i < end; ++i) {
    window.weights.push_back(bicubic((static_cast<double>(i) - center + 0.5) / stretch));
    sum += window.weights.back();
  }
  for (double& weight : window.weights) weight /= sum;
  return window;
}

Window linear_window(int64_t place, int64_t size, int64_t new_size) {
  const double scale = static_cast<double>(size) / static_cast<double>(new_size);
  const double center = std::max(0.0, scale * (static_cast<double>(place) + 0.5) - 0.5);
  Window window;
  window.first = std::min(size - 1, static_cast<int64_t>(center));
  const double along = center - static_cast<double>(window.first);
  window.weights = {1 - along};
  if (window.first + 1 < size) {
    window.weights.push_back(along);
  } else {
    window.weights[0] = 1;
  }
  return window;
}

// in [outer, size, inner] to [outer, new_size, inner]
template <class MakeWindow>
std::vector<double> resize_axis(const std::vector<double>& in, int64_t outer, int64_t size,
                                int64_t new_size, const MakeWindow& make_window) {
  const int64_t inner = std::ssize(in) / (outer * size);
  std::vector<double> out(static_cast<size_t>(outer * new_size * inner));
  for (int64_t place = 0; place < new_size; ++place) {
    const Window window = make_window(place, size, new_size);
    for (int64_t row = 0; row < outer; ++row)
      for (size_t k = 0; k < window.weights.size(); ++k)
        for (int64_t i = 0; i < inner; ++i)
          out[static_cast<size_t>((row * new_size + place) * inner + i)] +=
              window.weights[k] *
              in[static_cast<size_t>((row * size + window.first + static_cast<int64_t>(k)) * inner +
                                     i)];
  }
  return out;
}

}  // namespace

std::vector<float> resize_image_positions(const std::vector<float>& positions, int64_t side,
                                          int64_t new_side) {
  const auto width = static_cast<std::ptrdiff_t>(std::ssize(positions) / (1 + side * side));
  std::vector<double> grid(positions.begin() + width, positions.end());  // [side, side, width]
  grid = resize_axis(grid, side, side, new_side, cubic_window);
  grid = resize_axis(grid, 1, side, new_side, cubic_window);
  std::vector<float> resized(positions.begin(), positions.begin() + width);
  for (const double value : grid) resized.push_back(static_cast<float>(value));
  return resized;
}

std::vector<float> resize_text_positions(const std::vector<float>& positions, int64_t length,
                                         int64_t new_length) {
  const std::vector<double> rows =
      resize_axis({positions.begin(), positions.end()}, 1, length, new_length, linear_window);
  return {rows.begin(), rows.end()};
}

std::unique_ptr<ClipModel> with_positions(const ClipModel& model, int64_t image_size,
                                          int64_t context_length) {
  const ClipConfig& old = model.clip.config;
  CLIP_CHECK(!old.vision.is_resnet() || image_size == old.vision.image_size,
             "this ResNet is for pictures of side ", old.vision.image_size, ", not ", image_size,
             ": the positions in its attention pool are not resized, as they are not by open_clip");
  ClipConfig config = old;
  config.vision.image_size = image_size;
  // The crop keeps its share of the picture.
  config.vision.preprocess.short_side =
      old.vision.preprocess.short_side * image_size / old.vision.image_size;
  config.text.context_length = context_length;
  config.check();
  auto resized = std::make_unique<ClipModel>(config, cpu_backend());
  for (const Parameter& parameter : model.parameters.parameters()) {
    std::vector<float> values = parameter.variable.value().to_vector<float>();
    if (parameter.name == "visual.positional_embedding" && image_size != old.vision.image_size)
      values = resize_image_positions(values, old.vision.image_size / old.vision.patch_size,
                                      image_size / old.vision.patch_size);
    if (parameter.name == "positional_embedding" && context_length != old.text.context_length)
      values = resize_text_positions(values, old.text.context_length, context_length);
    Tensor target = resized->parameters.find(parameter.name).value();
    target.copy_from_host(values.data());
  }
  for (size_t i = 0; i < model.parameters.buffers().size(); ++i) {
    Tensor target = resized->parameters.buffers()[i].variable.value();
    target.copy_from_host(model.parameters.buffers()[i].variable.value().to_vector<float>().data());
  }
  return resized;
}

}  // namespace clip
