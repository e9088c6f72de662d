// The default data: emoji on coloured grounds, drawn on the fly, with combinations held out of
// training.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/random.h"
#include "models/dataset.h"
#include "models/sprite.h"

namespace clip {

/// What a scene shows. Indices into EmojiScenes' word lists.
struct Scene {
  int64_t object = 0;
  int64_t color = 0;
  int64_t count = 0;  ///< 0, 1, 2: one, two, three
  int64_t size = 0;   ///< 0, 1: small, large

  bool operator==(const Scene&) const = default;
};

/// Which (object, color) cells a scene is drawn from.
enum class SceneSplit { kSeen, kUnseenCells, kUnseenObjects };

/// object x ground colour x count x size, at random places. Every object has one colour that
/// training never shows with it, and a fifth of the objects are never shown at all: both are chosen
/// from the seed alone. A scene's pixels and words depend on (seed, index). Source of the art: Noto
/// Color Emoji read by FreeType; without the font, drawn shapes.
class EmojiScenes : public Dataset {
 public:
  struct Options {
    int64_t image_size = 32;    ///< S, 16 to 1024
    int64_t samples = 100'000;  ///< size of an epoch; every epoch draws new scenes
    uint64_t seed = 0;
    std::string font;  ///< empty: the usual places; no file there: shapes
  };

  /// throws    clip::Error if a size is out of range, or `font` is a file but no emoji font
  explicit EmojiScenes(const Options& options);

  int64_t size() const override;
  Sample get(int64_t index,
             int64_t epoch) const override;  ///< a seen cell and one of several captions
  std::vector<std::string> captions() const override;
  int64_t native_size() const override;
  std::string describe() const override;

  bool uses_font() const;        ///< false: shapes; describe() then names the package to install
  int64_t object_count() const;  ///< seen and unseen objects
  int64_t color_count() const;   ///< 8
  bool is_seen(int64_t object, int64_t color) const;
  bool is_held_out_object(int64_t object) const;

  std::string_view object_name(int64_t object) const;  ///< "lion"
  static std::string_view color_name(int64_t color);   ///< "blue"
  static std::string_view count_name(int64_t count);   ///< "two"
  static std::string_view size_name(int64_t size);     ///< "small"

  /// What get(index, epoch) shows.
  Scene training_scene(int64_t index, int64_t epoch) const;

  /// Scene `index` of a split, for evaluation: the same for every model trained with this seed. Its
  /// random numbers are none of training's. The cells of the split take turns, so that a multiple
  /// of their number weighs all alike.
  Scene scene(SceneSplit split, int64_t index) const;

  /// Number of (object, color) cells in a split.
  int64_t cell_count(SceneSplit split) const;

  /// A scene's picture; places, mirroring and shade come from (seed, index), from random numbers
  /// that no training picture uses, whatever the seed.
  Image draw(const Scene& scene, uint64_t seed, uint64_t index) const;

  /// "two small lions on a blue background": names everything.
  std::string full_caption(const Scene& scene) const;

  /// full_caption of all objects and colours with this count and size: what zero-shot chooses from.
  /// The caption of (object, color) is at object * color_count() + color.
  std::vector<std::string> candidate_captions(int64_t count, int64_t size) const;

 private:
  struct Cell {
    int64_t object, color;
  };
  struct Object {
    Noun noun;
    std::array<Sprite, 2> sprites;  ///< small, large
    int64_t held_out_color = -1;    ///< -1: all, a held-out object
  };

  void add_object(const Noun& noun, const Sprite& art);
  void choose_held_out();
  const std::vector<Cell>& cells_of(SceneSplit split) const;
  void check_scene(const Scene& scene) const;
  Image render(const Scene& scene, Random& random) const;

  Options options_;
  std::string font_;  ///< empty: shapes
  std::vector<Object> objects_;
  std::array<std::vector<Cell>, 3> cells_;  ///< by SceneSplit, in random order
};

}  // namespace clip
