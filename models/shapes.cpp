#include "models/shapes.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace clip {
namespace {

constexpr int64_t kSide = 128;
constexpr uint8_t kDark[] = {40, 40, 48, 255};

bool disc(double x, double y, double radius) { return x * x + y * y < radius * radius; }

bool box(double x, double y, double half) { return std::max(std::abs(x), std::abs(y)) < half; }

/// A heart's outline is (u^2 + v^2 - 1)^3 = u^2 v^3.
bool heart(double x, double y) {
  const double u = 1.25 * x, v = 0.1 - 1.2 * y;
  const double r = u * u + v * v - 1;
  return r * r * r < u * u * v * v * v;
}

/// Five tips at radius 1, the corners between them at radius 0.42.
bool star(double x, double y) {
  const double half_turn = std::numbers::pi / 5;  // from a tip to the next corner
  const double angle = std::abs(std::remainder(std::atan2(x, -y), 2 * half_turn));
  const double along = std::hypot(x, y) * std::cos(angle);
  const double across = std::hypot(x, y) * std::sin(angle);
  const double edge_along = 0.42 * std::cos(half_turn) - 1,
               edge_across = 0.42 * std::sin(half_turn);
  // Inside: left of the edge that leads from the tip at (1, 0) to the corner.
  return edge_along * across > edge_across * (along - 1);
}

}  // namespace

std::vector<DrawnShape> drawn_shapes() {
  return {
      {{"a", "circle", "circles"}, [](double x, double y) { return disc(x, y, 1); }},
      {{"a", "square", "squares"}, [](double x, double y) { return box(x, y, 1); }},
      {{"a", "triangle", "triangles"},
       [](double x, double y) { return std::abs(x) < (y + 1) / 2; }},
      {{"a", "star", "stars"}, star},
      {{"a", "ring", "rings"},
       [](double x, double y) { return disc(x, y, 1) && !disc(x, y, 0.6); }},
      {{"a", "cross", "crosses"},
       [](double x, double y) { return std::min(std::abs(x), std::abs(y)) < 0.3; }},
      {{"a", "heart", "hearts"}, heart},
      {{"a", "diamond", "diamonds"},
       [](double x, double y) { return std::abs(x) / 0.7 + std::abs(y) < 1; }},
      {{"a", "crescent", "crescents"},
       [](double x, double y) { return disc(x, y, 1) && !disc(x - 0.45, y, 0.8); }},
      {{"an", "arrow", "arrows"},
       [](double x, double y) { return x > 0 ? std::abs(y) < 1 - x : std::abs(y) < 0.3; }},
      {{"an", "oval", "ovals"}, [](double x, double y) { return disc(x, y / 0.55, 1); }},
      {{"a", "bar", "bars"}, [](double, double y) { return std::abs(y) < 0.22; }},
      {{"a", "frame", "frames"}, [](double x, double y) { return !box(x, y, 0.6); }},
      {{"a", "semicircle", "semicircles"},
       [](double x, double y) { return disc(x, y, 1) && y < 0; }},
      {{"an", "hourglass", "hourglasses"},
       [](double x, double y) { return std::abs(x) < std::abs(y); }},
  };
}

Sprite draw_shape(const DrawnShape& shape) {
  Sprite sprite = {kSide, kSide, std::vector<uint8_t>(kSide * kSide * 4)};
  const auto centre_of = [](int64_t i) { return (static_cast<double>(i) + 0.5) * 2 / kSide - 1; };
  for (int64_t y = 0; y < kSide; ++y) {
    for (int64_t x = 0; x < kSide; ++x) {
      if (shape.contains(centre_of(x), centre_of(y)))
        std::copy_n(kDark, 4, &sprite.pixels[static_cast<size_t>((y * kSide + x) * 4)]);
    }
  }
  return sprite;
}

}  // namespace clip
