#include "models/emoji_scenes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <tuple>

#include "models/emoji_list.h"

namespace clip {
namespace {

using Rgb = std::array<int, 3>;

EmojiScenes scenes(int64_t image_size = 32, uint64_t seed = 0) {
  return EmojiScenes({.image_size = image_size, .samples = 1000, .seed = seed, .font = ""});
}

EmojiScenes shapes(int64_t image_size = 32, uint64_t seed = 0) {
  return EmojiScenes(
      {.image_size = image_size, .samples = 1000, .seed = seed, .font = "/no/such/font.ttf"});
}

/// The data with the font, where it is installed, and without.
std::vector<EmojiScenes> both_kinds(int64_t image_size = 32) {
  std::vector<EmojiScenes> kinds;
  kinds.push_back(scenes(image_size));
  kinds.push_back(shapes(image_size));
  return kinds;
}

Rgb pixel(const Image& image, int64_t i) {
  const uint8_t* p = &image.pixels[static_cast<size_t>(i * 3)];
  return {p[0], p[1], p[2]};
}

/// How many pixels have each colour.
std::map<Rgb, int64_t> histogram(const Image& image) {
  std::map<Rgb, int64_t> counts;
  for (int64_t i = 0; i < image.width * image.height; ++i) ++counts[pixel(image, i)];
  return counts;
}

/// The ground is flat and covers more than anything else of one colour where objects are few.
Rgb commonest(const Image& image) {
  const auto counts = histogram(image);
  return std::ranges::max_element(counts, {}, [](const auto& entry) { return entry.second; })
      ->first;
}

std::string nearest_color_name(const Rgb& rgb) {
  const std::map<std::string, Rgb> plain = {{"red", {220, 40, 40}},     {"green", {40, 160, 60}},
                                            {"blue", {40, 90, 220}},    {"yellow", {250, 210, 40}},
                                            {"purple", {120, 50, 170}}, {"pink", {255, 150, 190}},
                                            {"gray", {128, 128, 128}},  {"white", {245, 245, 245}}};
  const auto distance = [&](const auto& entry) {
    int sum = 0;
    for (size_t c = 0; c < 3; ++c) sum += (rgb[c] - entry.second[c]) * (rgb[c] - entry.second[c]);
    return sum;
  };
  return std::ranges::min_element(plain, {}, distance)->first;
}

int64_t object_named(const EmojiScenes& set, std::string_view name) {
  for (int64_t object = 0; object < set.object_count(); ++object)
    if (set.object_name(object) == name) return object;
  throw Error(concat("no object is named ", name));
}

std::vector<std::string> split_words(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

bool names_color(const EmojiScenes& set, const std::vector<std::string>& words) {
  return std::ranges::any_of(words, [&](const std::string& word) {
    for (int64_t color = 0; color < set.color_count(); ++color)
      if (word == EmojiScenes::color_name(color)) return true;
    return false;
  });
}

TEST(EmojiScenes, ListHasFiftyDistinctOneWordAsciiNames) {
  std::set<std::string_view> singulars, plurals;
  std::set<char32_t> code_points;
  for (const EmojiEntry& entry : kEmojiList) {
    singulars.insert(entry.noun.singular);
    plurals.insert(entry.noun.plural);
    code_points.insert(entry.code_point);
    for (const auto word : {entry.noun.singular, entry.noun.plural})
      EXPECT_TRUE(std::ranges::all_of(word, [](char c) { return c >= 'a' && c <= 'z'; })) << word;
  }
  EXPECT_EQ(singulars.size(), 50u);
  EXPECT_EQ(plurals.size(), 50u);
  EXPECT_EQ(code_points.size(), 50u);
}

TEST(EmojiScenes, AreTheSameInEveryInstance) {
  const EmojiScenes a = scenes(), b = scenes();
  for (int64_t index : {7, 0, 999, 7}) {
    const Sample first = a.get(index, 3), second = b.get(index, 3);
    EXPECT_EQ(first.image.pixels, second.image.pixels);
    EXPECT_EQ(first.caption, second.caption);
    EXPECT_EQ(a.scene(SceneSplit::kUnseenCells, index), b.scene(SceneSplit::kUnseenCells, index));
  }
}

TEST(EmojiScenes, DependOnIndexEpochAndSeed) {
  const EmojiScenes set = scenes(), other = scenes(32, 1);
  const Image image = set.get(5, 0).image;
  EXPECT_NE(image.pixels, set.get(6, 0).image.pixels);
  EXPECT_NE(image.pixels, set.get(5, 1).image.pixels);
  EXPECT_NE(image.pixels, other.get(5, 0).image.pixels);
}

TEST(EmojiScenes, AnEpochsLastScenesDifferFromTheNextOnesFirst) {
  const EmojiScenes set = scenes();
  std::set<std::vector<uint8_t>> pictures;
  for (int64_t i = 0; i < 50; ++i) {
    pictures.insert(set.get(950 + i, 0).image.pixels);
    pictures.insert(set.get(i, 1).image.pixels);
  }
  EXPECT_EQ(pictures.size(), 100u);
}

TEST(EmojiScenes, HoldOutOneColorOfEachSeenObjectAndAFifthOfAllObjects) {
  for (const EmojiScenes& set : both_kinds()) {
    std::vector<int64_t> held_out_objects_of_color(8);
    int64_t held_out_objects = 0;
    for (int64_t object = 0; object < set.object_count(); ++object) {
      int64_t unseen = 0;
      for (int64_t color = 0; color < 8; ++color) unseen += !set.is_seen(object, color);
      EXPECT_EQ(unseen, set.is_held_out_object(object) ? 8 : 1);
      held_out_objects += set.is_held_out_object(object);
      if (set.is_held_out_object(object)) continue;
      for (int64_t color = 0; color < 8; ++color)
        held_out_objects_of_color[static_cast<size_t>(color)] += !set.is_seen(object, color);
    }
    EXPECT_EQ(held_out_objects, set.object_count() / 5);
    const auto [fewest, most] = std::ranges::minmax(held_out_objects_of_color);
    EXPECT_LE(most - fewest, set.uses_font() ? 0 : 1);  // 40 objects share 8 colours; 12 cannot
  }
}

TEST(EmojiScenes, ChooseWhatIsHeldOutFromTheSeedAlone) {
  const EmojiScenes a = scenes(32, 4), b = scenes(64, 4), c = scenes(32, 5);
  bool differs = false;
  for (int64_t object = 0; object < a.object_count(); ++object) {
    for (int64_t color = 0; color < 8; ++color) {
      EXPECT_EQ(a.is_seen(object, color), b.is_seen(object, color));
      differs |= a.is_seen(object, color) != c.is_seen(object, color);
    }
  }
  EXPECT_TRUE(differs);
}

TEST(EmojiScenes, NeverShowAHeldOutCellInTrainingAndShowEverySeenOne) {
  for (const EmojiScenes& set : both_kinds()) {
    std::set<std::tuple<int64_t, int64_t, int64_t, int64_t>> shown;
    for (int64_t draw = 0; draw < 200'000; ++draw) {
      const Scene scene = set.training_scene(draw % 1000, draw / 1000);
      ASSERT_TRUE(set.is_seen(scene.object, scene.color));
      shown.insert({scene.object, scene.color, scene.count, scene.size});
    }
    // 1,680 scenes of equal chance, 119 draws each: one is missed with probability 1e-48.
    EXPECT_EQ(std::ssize(shown), set.cell_count(SceneSplit::kSeen) * 3 * 2);
  }
}

TEST(EmojiScenes, EvaluationVisitsEachCellOfItsSplitInTurn) {
  for (const EmojiScenes& set : both_kinds()) {
    for (const auto split :
         {SceneSplit::kSeen, SceneSplit::kUnseenCells, SceneSplit::kUnseenObjects}) {
      std::set<std::pair<int64_t, int64_t>> cells;
      for (int64_t index = 0; index < set.cell_count(split); ++index) {
        const Scene scene = set.scene(split, index);
        cells.insert({scene.object, scene.color});
        EXPECT_EQ(set.is_seen(scene.object, scene.color), split == SceneSplit::kSeen);
        EXPECT_EQ(set.is_held_out_object(scene.object), split == SceneSplit::kUnseenObjects);
      }
      EXPECT_EQ(std::ssize(cells), set.cell_count(split));
    }
  }
}

TEST(EmojiScenes, EvaluationPicturesAreNoneOfTrainings) {
  const EmojiScenes set = scenes();
  std::set<std::vector<uint8_t>> training;
  for (int64_t index = 0; index < 1000; ++index) training.insert(set.get(index, 0).image.pixels);
  for (int64_t index = 0; index < 1000; ++index) {
    // The same content, seed and number as a training scene: only the random stream differs.
    const Image image = set.draw(set.training_scene(index, 0), 0, static_cast<uint64_t>(index));
    EXPECT_FALSE(training.contains(image.pixels));
  }
}

TEST(EmojiScenes, GroundHasTheColorThatTheSceneNames) {
  for (const EmojiScenes& set : both_kinds()) {
    for (int64_t i = 0; i < 400; ++i) {
      const Scene scene = {i % set.object_count(), i % 8, 0, 0};
      const Image image = set.draw(scene, 3, static_cast<uint64_t>(i));
      const Rgb ground = commonest(image);
      EXPECT_EQ(nearest_color_name(ground), EmojiScenes::color_name(scene.color));
      // A small object covers at most a third of a side: no more than one corner.
      const int64_t last = image.width * image.height - 1;
      int64_t corners = 0;
      for (const int64_t corner : {int64_t{0}, image.width - 1, last - image.width + 1, last})
        corners += pixel(image, corner) == ground;
      EXPECT_GE(corners, 3);
    }
  }
}

TEST(EmojiScenes, ShadesOfAGroundDifferFromSceneToScene) {
  const EmojiScenes set = scenes();
  std::set<Rgb> shades;
  for (uint64_t i = 0; i < 50; ++i) shades.insert(commonest(set.draw({0, 2, 0, 0}, 0, i)));
  EXPECT_GT(shades.size(), 40u);
}

TEST(EmojiScenes, ObjectsStandOutFromEveryGround) {
  for (const EmojiScenes& set : both_kinds()) {
    for (int64_t object = 0; object < set.object_count(); ++object) {
      for (int64_t color = 0; color < 8; ++color) {
        const Image image = set.draw({object, color, 0, 1}, 1, 2);
        const Rgb ground = commonest(image);
        int64_t different = 0;
        for (int64_t i = 0; i < 32 * 32; ++i) {
          const Rgb rgb = pixel(image, i);
          int distance = 0;
          for (size_t c = 0; c < 3; ++c) distance += std::abs(rgb[c] - ground[c]);
          different += distance > 30;
        }
        // A twelfth of the large object's square of 16 x 16.
        EXPECT_GE(different, 21) << set.object_name(object) << EmojiScenes::color_name(color);
      }
    }
  }
}

TEST(EmojiScenes, ObjectsNeverOverlapNorLeaveThePicture) {
  for (const int64_t image_size : {16, 17, 21, 32, 33, 50, 224}) {
    const EmojiScenes set = shapes(image_size);
    const int64_t square = object_named(set, "square");
    for (int64_t size = 0; size < 2; ++size) {
      const int64_t side = size == 0 ? (3 * image_size + 7) / 8 : image_size / 2;
      for (int64_t count = 0; count < 3; ++count) {
        for (uint64_t index = 0; index < 50; ++index) {
          // Squares fill theirs, so a pixel shared or cut off would be missing from the sum.
          const Image image = set.draw({square, 3, count, size}, 9, index);
          EXPECT_EQ(histogram(image)[(Rgb{40, 40, 48})], (count + 1) * side * side)
              << image_size << " pixels, number " << index;
        }
      }
    }
  }
}

TEST(EmojiScenes, ObjectsAppearAllOverThePicture) {
  const EmojiScenes set = shapes(16);
  const int64_t square = object_named(set, "square");
  for (int64_t count = 0; count < 3; ++count) {
    std::set<int64_t> covered;
    for (uint64_t index = 0; index < 500; ++index) {
      const Image image = set.draw({square, 0, count, 1}, 0, index);
      for (int64_t i = 0; i < 16 * 16; ++i)
        if (pixel(image, i) == Rgb{40, 40, 48}) covered.insert(i);
    }
    EXPECT_EQ(covered.size(), 256u) << count + 1 << " objects";
  }
}

TEST(EmojiScenes, FullCaptionNamesEverything) {
  const EmojiScenes set = scenes();
  if (!set.uses_font()) GTEST_SKIP() << set.describe();
  const auto caption = [&](std::string_view name, int64_t color, int64_t count, int64_t size) {
    return set.full_caption({object_named(set, name), color, count, size});
  };
  EXPECT_EQ(caption("lion", 2, 1, 0), "two small lions on a blue background");
  EXPECT_EQ(caption("owl", 7, 0, 1), "a large owl on a white background");
  EXPECT_EQ(caption("strawberry", 0, 2, 1), "three large strawberries on a red background");
  EXPECT_EQ(caption("fish", 3, 1, 0), "two small fish on a yellow background");
  EXPECT_EQ(caption("cactus", 6, 1, 0), "two small cacti on a gray background");
}

TEST(EmojiScenes, CandidateCaptionsKeepCountAndSizeAndAreDistinct) {
  const EmojiScenes set = scenes();
  const std::vector<std::string> captions = set.candidate_captions(2, 0);
  ASSERT_EQ(std::ssize(captions), set.object_count() * set.color_count());
  EXPECT_EQ(captions[5 * 8 + 3], set.full_caption({5, 3, 2, 0}));
  for (const std::string& caption : captions) EXPECT_TRUE(caption.starts_with("three small "));
  EXPECT_EQ(std::set(captions.begin(), captions.end()).size(), captions.size());
}

TEST(EmojiScenes, TrainingCaptionsSayOnlyWhatTheSceneShows) {
  for (const EmojiScenes& set : both_kinds()) {
    std::set<std::string> nouns;
    for (int64_t object = 0; object < set.object_count(); ++object)
      nouns.insert(std::string(set.object_name(object)));
    for (int64_t index = 0; index < 1000; ++index) {
      const Scene scene = set.training_scene(index, 0);
      const std::vector<std::string> full = split_words(set.full_caption(scene));
      for (const std::string& word : split_words(set.get(index, 0).caption)) {
        const bool of_scene = std::ranges::find(full, word) != full.end();
        const bool of_template = word == "a" || word == "an" || word == "picture" || word == "of" ||
                                 word == "with" || (word == "one" && scene.count == 0) ||
                                 nouns.contains(word);
        EXPECT_TRUE(of_scene || of_template) << word;
        EXPECT_TRUE(of_scene || !nouns.contains(word)) << word;
      }
    }
  }
}

TEST(EmojiScenes, ThirteenOfTwentyTrainingCaptionsNameObjectAndColor) {
  const EmojiScenes set = scenes();
  int64_t both = 0;
  for (int64_t draw = 0; draw < 20'000; ++draw) {
    const int64_t index = draw % 1000, epoch = draw / 1000;
    const std::vector<std::string> full =
        split_words(set.full_caption(set.training_scene(index, epoch)));
    const std::vector<std::string> words = split_words(set.get(index, epoch).caption);
    // "two small lions on a blue background": the object is the third word.
    both += names_color(set, words) && std::ranges::find(words, full[2]) != words.end();
  }
  // Five standard deviations of a binomial are 0.017.
  EXPECT_NEAR(static_cast<double>(both) / 20'000, 0.65, 0.017);
}

TEST(EmojiScenes, ArticlesFitTheirNouns) {
  for (const EmojiScenes& set : both_kinds()) {
    for (const std::string& caption : set.captions()) {
      const std::vector<std::string> words = split_words(caption);
      for (size_t i = 0; i + 1 < words.size(); ++i) {
        if (words[i] != "a" && words[i] != "an") continue;
        const std::string& next = words[i + 1];
        const bool vowel =
            next == "hourglass" || (next != "unicorn" && std::string("aeiou").find(next[0]) < 5);
        EXPECT_EQ(words[i] == "an", vowel) << caption;
      }
    }
  }
}

TEST(EmojiScenes, CaptionsForAVocabularyHoldEveryWordOfTrainingAndEvaluation) {
  for (const EmojiScenes& set : both_kinds()) {
    std::set<std::string> vocabulary;
    for (const std::string& caption : set.captions())
      for (const std::string& word : split_words(caption)) vocabulary.insert(word);
    for (int64_t count = 0; count < 3; ++count)
      for (int64_t size = 0; size < 2; ++size)
        for (const std::string& caption : set.candidate_captions(count, size))
          for (const std::string& word : split_words(caption))
            EXPECT_TRUE(vocabulary.contains(word)) << word;
    for (int64_t index = 0; index < 1000; ++index)
      for (const std::string& word : split_words(set.get(index, 0).caption))
        EXPECT_TRUE(vocabulary.contains(word)) << word;
  }
}

TEST(EmojiScenes, WorkAtTheSmallestAndAtUsualSizes) {
  for (const int64_t image_size : {16, 224}) {
    for (const EmojiScenes& set : both_kinds(image_size)) {
      EXPECT_EQ(set.native_size(), image_size);
      for (int64_t index = 0; index < 20; ++index) {
        const Image image = set.get(index, 0).image;
        EXPECT_EQ(image.width, image_size);
        EXPECT_EQ(image.height, image_size);
        EXPECT_EQ(std::ssize(image.pixels), image_size * image_size * 3);
        EXPECT_GT(histogram(image).size(), 1u);
      }
    }
  }
}

TEST(EmojiScenes, DrawShapesWhereThereIsNoFontAndNameThePackage) {
  const EmojiScenes set = shapes();
  EXPECT_FALSE(set.uses_font());
  EXPECT_GE(set.object_count(), 12);
  EXPECT_NE(set.describe().find("fonts-noto-color-emoji"), std::string::npos) << set.describe();
  EXPECT_NE(set.describe().find("/no/such/font.ttf"), std::string::npos) << set.describe();
}

TEST(EmojiScenes, RefuseAFileThatIsNoFont) {
  const auto folder = std::filesystem::temp_directory_path() / "clip_emoji_scenes_test";
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "font.ttf").string();
  std::ofstream(path) << "no font";
  try {
    const EmojiScenes set({.image_size = 32, .samples = 10, .seed = 0, .font = path});
    FAIL() << set.describe();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
  }
  std::filesystem::remove_all(folder);
}

TEST(EmojiScenes, RefuseSizesAndIndicesOutOfRange) {
  EXPECT_THROW(scenes(15), Error);
  EXPECT_THROW(EmojiScenes({.image_size = 32, .samples = 0, .seed = 0, .font = ""}), Error);
  const EmojiScenes set = scenes();
  EXPECT_THROW(set.get(1000, 0), Error);
  EXPECT_THROW(set.get(0, -1), Error);
  EXPECT_THROW(set.scene(SceneSplit::kSeen, -1), Error);
  EXPECT_THROW(set.draw({0, 8, 0, 0}, 0, 0), Error);
  EXPECT_THROW(set.full_caption({set.object_count(), 0, 0, 0}), Error);
  EXPECT_THROW(EmojiScenes::count_name(3), Error);
}

TEST(EmojiScenes, TakeWellUnderAMillisecondEach) {
  const EmojiScenes set = scenes();
  const auto start = std::chrono::steady_clock::now();
  for (int64_t index = 0; index < 1000; ++index) set.get(index, 0);
  const std::chrono::duration<double, std::milli> elapsed =
      std::chrono::steady_clock::now() - start;
  // 0.005 ms on one core; the bound leaves room for busy and sanitised runs.
  EXPECT_LT(elapsed.count() / 1000, 1.0);
}

}  // namespace
}  // namespace clip
