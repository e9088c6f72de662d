#include "models/emoji_scenes.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <system_error>
#include <utility>

#include "engine/check.h"
#include "models/emoji_font.h"
#include "models/emoji_list.h"
#include "models/shapes.h"

namespace clip {
namespace {

struct Ground {
  std::string_view name;
  std::array<double, 3> rgb;
};
constexpr std::array<Ground, 8> kGrounds = {{
    {"red", {214, 48, 48}},
    {"green", {48, 160, 70}},
    {"blue", {45, 95, 215}},
    {"yellow", {245, 208, 50}},
    {"purple", {125, 60, 175}},
    {"pink", {250, 150, 190}},
    {"gray", {128, 128, 128}},
    {"white", {242, 242, 242}},
}};
constexpr std::array<std::string_view, 3> kCounts = {"one", "two", "three"};
constexpr std::array<std::string_view, 2> kSizes = {"small", "large"};

// Shade of a ground: all channels together, and each on its own by so little that gray stays gray.
constexpr double kBrightnessJitter = 18;
constexpr double kChannelJitter = 7;

// A draw reads fewer numbers of its stream than this, so that no two draws share one.
constexpr uint64_t kNumbersPerDraw = 1024;
constexpr int kPlacementTries = 20;

/// {things} is "two lions", {sized things} is "two small lions".
struct Template {
  std::string_view pattern;
  int weight;  ///< of 20; those that name both object and colour sum to 13
};
constexpr std::string_view kFullPattern = "{sized things} on a {color} background";
constexpr std::array<Template, 10> kTemplates = {{
    {kFullPattern, 5},
    {"{things} on {color}", 2},
    {"{things} on a {color} background", 2},
    {"{sized things} on {color}", 2},
    {"{color} background with {things}", 1},
    {"{color} background with {sized things}", 1},
    {"{things}", 2},
    {"{sized things}", 2},
    {"a picture of {things}", 1},
    {"a {color} background", 2},
}};
constexpr int64_t kTotalWeight = 20;

size_t checked(int64_t index, int64_t count, const char* what) {
  CLIP_CHECK(index >= 0 && index < count, "[emoji scenes] ", what, " must be 0 to ", count - 1,
             ", got ", index);
  return static_cast<size_t>(index);
}

enum class Single { kArticle, kOne };  // "an owl" or "one owl"

std::string words(const Noun& noun, const Scene& scene, bool sized, Single single) {
  const bool plural = scene.count > 0;
  std::string text;
  if (plural || single == Single::kOne)
    text = kCounts[static_cast<size_t>(scene.count)];
  else
    text = sized ? "a" : noun.article;
  if (sized) text.append(" ").append(kSizes[static_cast<size_t>(scene.size)]);
  return text.append(" ").append(plural ? noun.plural : noun.singular);
}

std::string fill_pattern(std::string_view pattern, const Noun& noun, const Scene& scene,
                         Single single) {
  std::string text(pattern);
  const auto put = [&text](std::string_view name, std::string_view value) {
    if (const size_t at = text.find(name); at != std::string::npos)
      text.replace(at, name.size(), value);
  };
  put("{things}", words(noun, scene, false, single));
  put("{sized things}", words(noun, scene, true, single));
  put("{color}", kGrounds[static_cast<size_t>(scene.color)].name);
  return text;
}

std::string random_caption(const Noun& noun, const Scene& scene, Random& random) {
  int64_t left = random.below(kTotalWeight);
  size_t chosen = 0;
  while (left >= kTemplates[chosen].weight) left -= kTemplates[chosen++].weight;
  const Single single = random.below(4) == 0 ? Single::kOne : Single::kArticle;
  return fill_pattern(kTemplates[chosen].pattern, noun, scene, single);
}

/// Fisher and Yates.
template <class T>
void shuffle(std::vector<T>& values, Random& random) {
  for (size_t i = values.size(); i > 1; --i)
    std::swap(values[i - 1], values[static_cast<size_t>(random.below(static_cast<int64_t>(i)))]);
}

/// The numbers of one draw.
Random random_at(uint64_t seed, std::string_view stream, uint64_t draw) {
  Random random(seed, random_stream(stream));
  random.skip_to(draw * kNumbersPerDraw);
  return random;
}

int64_t sprite_side(int64_t image_size, size_t size) {
  // At 32 pixels 12 and 16: small ones can still be told apart, and three large ones fit in quarters.
  return size == 0 ? (image_size * 3 + 7) / 8 : image_size / 2;
}

/// Upper left corner of a sprite.
struct Place {
  int64_t left, top;
};

bool overlap(Place a, Place b, int64_t side) {
  return std::abs(a.left - b.left) < side && std::abs(a.top - b.top) < side;
}

/// Anywhere inside, by rejection; for three large ones that hardly ever succeeds, and each gets a
/// quarter of the picture.
std::vector<Place> choose_places(int64_t count, int64_t side, int64_t image_size, Random& random) {
  std::vector<Place> places;
  for (int attempt = 0; attempt < kPlacementTries; ++attempt) {
    places.clear();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t left = random.below(image_size - side + 1);
      const Place place = {left, random.below(image_size - side + 1)};
      const auto hits = [&](Place other) { return overlap(place, other, side); };
      if (std::ranges::none_of(places, hits)) places.push_back(place);
    }
    if (std::ssize(places) == count) return places;
  }
  const int64_t half = image_size / 2, slack = half - side;
  places = {{0, 0}, {half, 0}, {0, half}, {half, half}};
  shuffle(places, random);
  places.resize(static_cast<size_t>(count));
  for (Place& place : places) {
    place.left += random.below(slack + 1);
    place.top += random.below(slack + 1);
  }
  return places;
}

Image draw_ground(const Ground& ground, int64_t image_size, Random& random) {
  const double brightness = random.uniform(-kBrightnessJitter, kBrightnessJitter);
  std::array<uint8_t, 3> rgb{};
  for (size_t c = 0; c < 3; ++c) {
    const double value =
        ground.rgb[c] + brightness + random.uniform(-kChannelJitter, kChannelJitter);
    rgb[c] = static_cast<uint8_t>(std::clamp(value, 0.0, 255.0));
  }
  Image image = {image_size, image_size, {}};
  image.pixels.resize(static_cast<size_t>(image_size * image_size * 3));
  for (size_t i = 0; i < image.pixels.size(); i += 3) std::ranges::copy(rgb, &image.pixels[i]);
  return image;
}

}  // namespace

EmojiScenes::EmojiScenes(const Options& options) : options_(options) {
  CLIP_CHECK(options.image_size >= 16 && options.image_size <= 1024,
             "[emoji scenes] image_size must be 16 to 1024 pixels, got ", options.image_size);
  CLIP_CHECK(options.samples > 0, "[emoji scenes] samples must be at least 1, got ",
             options.samples);
  std::vector<Sprite> emoji;
  if (options.font.empty()) {
    if (auto found = find_emoji()) {
      font_ = found->font;
      emoji = std::move(found->sprites);
    }
  } else if (std::error_code unreadable; std::filesystem::exists(options.font, unreadable)) {
    emoji = load_emoji(font_ = options.font);
  }
  if (uses_font()) {
    for (size_t i = 0; i < emoji.size(); ++i) add_object(kEmojiList[i].noun, emoji[i]);
  } else {
    for (const DrawnShape& shape : drawn_shapes()) add_object(shape.noun, draw_shape(shape));
  }
  choose_held_out();
}

void EmojiScenes::add_object(const Noun& noun, const Sprite& art) {
  Object object = {noun, {}, -1};
  for (size_t size = 0; size < kSizes.size(); ++size)
    object.sprites[size] = fit_to_square(art, sprite_side(options_.image_size, size));
  objects_.push_back(std::move(object));
}

void EmojiScenes::choose_held_out() {
  Random random(options_.seed, random_stream("emoji/split"));
  std::vector<size_t> order(objects_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  shuffle(order, random);
  // The last fifth stays unseen; the colours take turns among the rest, so each is held out for as
  // many objects as any other.
  const size_t seen = objects_.size() - objects_.size() / 5;
  for (size_t i = 0; i < seen; ++i)
    objects_[order[i]].held_out_color = static_cast<int64_t>(i % kGrounds.size());

  for (int64_t object = 0; object < object_count(); ++object) {
    for (int64_t color = 0; color < color_count(); ++color) {
      const SceneSplit split = is_held_out_object(object) ? SceneSplit::kUnseenObjects
                               : is_seen(object, color)   ? SceneSplit::kSeen
                                                          : SceneSplit::kUnseenCells;
      cells_[static_cast<size_t>(split)].push_back({object, color});
    }
  }
  for (std::vector<Cell>& cells : cells_) shuffle(cells, random);
}

Sample EmojiScenes::get(int64_t index, int64_t epoch) const {
  const Scene scene = training_scene(index, epoch);
  const auto draw_number = static_cast<uint64_t>(epoch * options_.samples + index);
  Random pixels = random_at(options_.seed, "emoji/training/picture", draw_number);
  Random caption = random_at(options_.seed, "emoji/training/caption", draw_number);
  const Noun& noun = objects_[static_cast<size_t>(scene.object)].noun;
  return {render(scene, pixels), random_caption(noun, scene, caption)};
}

Scene EmojiScenes::training_scene(int64_t index, int64_t epoch) const {
  CLIP_CHECK(index >= 0 && index < options_.samples && epoch >= 0,
             "[emoji scenes] index must be 0 to ", options_.samples - 1,
             " and epoch not negative, got index ", index, " and epoch ", epoch);
  Random random = random_at(options_.seed, "emoji/training/scene",
                            static_cast<uint64_t>(epoch * options_.samples + index));
  const std::vector<Cell>& cells = cells_of(SceneSplit::kSeen);
  const Cell cell = cells[static_cast<size_t>(random.below(std::ssize(cells)))];
  const int64_t count = random.below(std::ssize(kCounts));
  return {cell.object, cell.color, count, random.below(std::ssize(kSizes))};
}

Scene EmojiScenes::scene(SceneSplit split, int64_t index) const {
  CLIP_CHECK(index >= 0, "[emoji scenes] a scene's index must not be negative, got ", index);
  Random random = random_at(options_.seed, "emoji/evaluation/scene", static_cast<uint64_t>(index));
  const std::vector<Cell>& cells = cells_of(split);
  const Cell cell = cells[static_cast<size_t>(index % std::ssize(cells))];
  const int64_t count = random.below(std::ssize(kCounts));
  return {cell.object, cell.color, count, random.below(std::ssize(kSizes))};
}

Image EmojiScenes::draw(const Scene& scene, uint64_t seed, uint64_t index) const {
  check_scene(scene);
  Random random = random_at(seed, "emoji/evaluation/picture", index);
  return render(scene, random);
}

Image EmojiScenes::render(const Scene& scene, Random& random) const {
  Image image =
      draw_ground(kGrounds[static_cast<size_t>(scene.color)], options_.image_size, random);
  const Sprite& sprite =
      objects_[static_cast<size_t>(scene.object)].sprites[static_cast<size_t>(scene.size)];
  for (const Place& place :
       choose_places(scene.count + 1, sprite.width, options_.image_size, random)) {
    const Mirror mirror = random.below(2) == 1 ? Mirror::kYes : Mirror::kNo;
    draw_sprite(image, sprite, place.left, place.top, mirror);
  }
  return image;
}

std::string EmojiScenes::full_caption(const Scene& scene) const {
  check_scene(scene);
  const Noun& noun = objects_[static_cast<size_t>(scene.object)].noun;
  return fill_pattern(kFullPattern, noun, scene, Single::kArticle);
}

std::vector<std::string> EmojiScenes::candidate_captions(int64_t count, int64_t size) const {
  std::vector<std::string> captions;
  for (int64_t object = 0; object < object_count(); ++object)
    for (int64_t color = 0; color < color_count(); ++color)
      captions.push_back(full_caption({object, color, count, size}));
  return captions;
}

std::vector<std::string> EmojiScenes::captions() const {
  std::vector<std::string> captions;
  int64_t turn = 0;  // colours take turns: all of them would repeat the rest eight times
  for (int64_t object = 0; object < object_count(); ++object) {
    for (int64_t count = 0; count < std::ssize(kCounts); ++count) {
      for (int64_t size = 0; size < std::ssize(kSizes); ++size, ++turn) {
        for (int64_t i = 0; i < std::ssize(kTemplates); ++i) {
          const Scene scene = {object, (turn + i) % color_count(), count, size};
          const Single single = (object + i) % 4 == 0 ? Single::kOne : Single::kArticle;
          captions.push_back(fill_pattern(kTemplates[static_cast<size_t>(i)].pattern,
                                          objects_[static_cast<size_t>(object)].noun, scene,
                                          single));
        }
      }
    }
  }
  return captions;
}

std::string EmojiScenes::describe() const {
  const std::string contents =
      concat(object_count(), " objects (", cell_count(SceneSplit::kUnseenObjects) / color_count(),
             " of them never shown) on ", color_count(), " colours, ", options_.samples,
             " scenes an epoch");
  if (uses_font()) return concat("emoji scenes: ", contents, ", drawn with ", font_);
  return concat("scenes of drawn shapes: ", contents, "; for emoji install the Debian package ",
                kEmojiFontPackage, " (no usable font ",
                options_.font.empty() ? "in the usual places" : concat("at ", options_.font), ")");
}

int64_t EmojiScenes::size() const { return options_.samples; }
int64_t EmojiScenes::native_size() const { return options_.image_size; }
bool EmojiScenes::uses_font() const { return !font_.empty(); }
int64_t EmojiScenes::object_count() const { return std::ssize(objects_); }
int64_t EmojiScenes::color_count() const { return std::ssize(kGrounds); }

void EmojiScenes::check_scene(const Scene& scene) const {
  checked(scene.object, object_count(), "object");
  checked(scene.color, color_count(), "color");
  checked(scene.count, std::ssize(kCounts), "count");
  checked(scene.size, std::ssize(kSizes), "size");
}

bool EmojiScenes::is_held_out_object(int64_t object) const {
  return objects_[checked(object, object_count(), "object")].held_out_color < 0;
}

bool EmojiScenes::is_seen(int64_t object, int64_t color) const {
  checked(color, color_count(), "color");
  return !is_held_out_object(object) &&
         objects_[static_cast<size_t>(object)].held_out_color != color;
}

const std::vector<EmojiScenes::Cell>& EmojiScenes::cells_of(SceneSplit split) const {
  return cells_[static_cast<size_t>(split)];
}

int64_t EmojiScenes::cell_count(SceneSplit split) const { return std::ssize(cells_of(split)); }

std::string_view EmojiScenes::object_name(int64_t object) const {
  return objects_[checked(object, object_count(), "object")].noun.singular;
}
std::string_view EmojiScenes::color_name(int64_t color) {
  return kGrounds[checked(color, std::ssize(kGrounds), "color")].name;
}
std::string_view EmojiScenes::count_name(int64_t count) {
  return kCounts[checked(count, std::ssize(kCounts), "count")];
}
std::string_view EmojiScenes::size_name(int64_t size) {
  return kSizes[checked(size, std::ssize(kSizes), "size")];
}

}  // namespace clip
