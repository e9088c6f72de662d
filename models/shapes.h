// Drawn shapes: the objects of the default data where there is no emoji font.
#pragma once

#include <vector>

#include "models/sprite.h"

namespace clip {

struct DrawnShape {
  Noun noun;
  bool (*contains)(double x, double y);  ///< x to the right, y down, both in [-1, 1]
};

/// Distinct at ten pixels: circle, square, star, heart, ...
std::vector<DrawnShape> drawn_shapes();

/// The shape in a dark colour that is none of the grounds' colours, 128 x 128, not antialiased:
/// fit_to_square does that.
Sprite draw_shape(const DrawnShape& shape);

}  // namespace clip
