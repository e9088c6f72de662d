// What CLIP has to compute, counted: the measure that speeds are held against.
#pragma once

#include "models/config.h"

namespace clip {

/// Floating-point operations of one forward pass of each tower, two for a multiply-add.
struct TowerFlop {
  double image = 0;  ///< of one picture
  double text = 0;   ///< of one caption
};

/// The products of the towers, without padding and with the last block at one row (a mean of all
/// patches needs all rows): per block of width C over T tokens 24 C^2 T + 4 T^2 C (at mlp_ratio 4; a
/// causal mask is not deducted), patches, projections, and a ResNet's convolutions and attention
/// pool. What lies between the products is left out, and so is the loss.
/// text_length    tokens of the caption, start and end included
TowerFlop needed_forward_flop(const ClipConfig& config, int64_t text_length);

/// A training step's for one pair: three times both forward passes. Recomputation never counts.
double needed_flop(const ClipConfig& config, int64_t text_length);

}  // namespace clip
