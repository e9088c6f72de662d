#include "models/flop.h"

namespace clip {
namespace {

double real(int64_t value) { return static_cast<double>(value); }

/// Blocks over `tokens` rows; of the last, queries and what follows at one row.
double blocks(double width, double layers, double tokens, double mlp) {
  const double row = 2 * width * (2 * width + 2 * mlp) + 4 * tokens * width;  // all but k and v
  const double key_value_row = 2 * width * 2 * width;
  return (layers - 1) * tokens * (row + key_value_row) + row + tokens * key_value_row;
}

}  // namespace

TowerFlop needed_forward_flop(const ClipConfig& config, int64_t text_length) {
  const VisionConfig& v = config.vision;
  const TextConfig& t = config.text;
  TowerFlop flop;
  flop.image = 2 * real(v.patches()) * 3 * real(v.patch_size * v.patch_size) * real(v.width) +
               blocks(real(v.width), real(v.layers), real(v.patches() + 1), real(v.mlp_width())) +
               2 * real(v.width * config.embed_dim);
  flop.text = blocks(real(t.width), real(t.layers), real(text_length), real(t.mlp_width())) +
              2 * real(t.width * config.embed_dim);
  return flop;
}

double needed_flop(const ClipConfig& config, int64_t text_length) {
  const TowerFlop flop = needed_forward_flop(config, text_length);
  return 3 * (flop.image + flop.text);
}

}  // namespace clip
