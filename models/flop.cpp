#include "models/flop.h"

namespace clip {
namespace {

double real(int64_t value) { return static_cast<double>(value); }

/// Blocks over `tokens` rows; of the last, queries and what follows at last_rows of them.
double blocks(double width, double layers, double tokens, double mlp, double last_rows) {
  const double row = 2 * width * (2 * width + 2 * mlp) + 4 * tokens * width;  // all but k and v
  const double key_value_row = 2 * width * 2 * width;
  return (layers - 1) * tokens * (row + key_value_row) + last_rows * row + tokens * key_value_row;
}

double vit(const VisionConfig& v, int64_t embed_dim) {
  const double tokens = real(v.patches() + 1);
  return 2 * real(v.patches()) * 3 * real(v.patch_size * v.patch_size) * real(v.width) +
         blocks(real(v.width), real(v.layers), tokens, real(v.mlp_width()),
                v.pool == Pool::kAverage ? tokens : 1) +
         2 * real(v.width * embed_dim);
}

double resnet(const VisionConfig& v, int64_t embed_dim) {
  const auto conv = [](int64_t inputs, int64_t outputs, int64_t area, int64_t side) {
    return 2 * real(inputs * outputs * area) * real(side * side);
  };
  int64_t side = v.image_size / 2, inputs = v.width, channels = v.width;
  double flop = conv(3, v.width / 2, 9, side) + conv(v.width / 2, v.width / 2, 9, side) +
                conv(v.width / 2, v.width, 9, side);
  side /= 2;
  for (size_t stage = 0; stage < v.stages.size(); ++stage, channels *= 2)
    for (int64_t block = 0; block < v.stages[stage]; ++block) {
      flop += conv(inputs, channels, 1, side) + conv(channels, channels, 9, side);
      if (stage > 0 && block == 0) side /= 2;
      flop += conv(channels, 4 * channels, 1, side);
      if (block == 0) flop += conv(inputs, 4 * channels, 1, side);
      inputs = 4 * channels;
    }
  const double width = real(v.feature_width()), tokens = real(v.patches() + 1);
  return flop + 2 * width * width * (2 * tokens + 1) + 4 * tokens * width +
         2 * width * real(embed_dim);
}

}  // namespace

TowerFlop needed_forward_flop(const ClipConfig& config, int64_t text_length) {
  const TextConfig& t = config.text;
  TowerFlop flop;
  flop.image = config.vision.is_resnet() ? resnet(config.vision, config.embed_dim)
                                         : vit(config.vision, config.embed_dim);
  flop.text = blocks(real(t.width), real(t.layers), real(text_length), real(t.mlp_width()), 1) +
              2 * real(t.width * config.embed_dim);
  return flop;
}

double needed_flop(const ClipConfig& config, int64_t text_length) {
  const TowerFlop flop = needed_forward_flop(config, text_length);
  return 3 * (flop.image + flop.text);
}

}  // namespace clip
