#include "models/retrieval.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "engine/random.h"
#include "models/evaluation.h"
#include "tests/app_samples.h"
#include "tests/counting_backend.h"
#include "tests/error_message.h"
#include "tests/thread_ranks.h"
#include "tests/tiny_clip.h"

namespace clip {
namespace {

using Places = std::vector<int64_t>;

Tensor tensor(const Shape& shape, const std::vector<float>& values) {
  return Tensor::from<float>(cpu_backend(), shape, values);
}

/// Whole numbers from -3 to 3: their products are exact in any order, and many are equal.
std::vector<float> whole_numbers(int64_t count, uint64_t stream) {
  std::vector<float> values(static_cast<size_t>(count));
  Random random(1, stream);
  for (float& value : values) value = static_cast<float>(random.below(7) - 3);
  return values;
}

/// The definition, from the whole matrix.
RetrievalPlaces from_the_whole_matrix(const std::vector<float>& images,
                                      const std::vector<float>& texts, int64_t width,
                                      const std::vector<int64_t>& image_of) {
  const int64_t image_count = std::ssize(images) / width, text_count = std::ssize(image_of);
  std::vector<float> cosines;
  for (int64_t i = 0; i < image_count; ++i)
    for (int64_t t = 0; t < text_count; ++t) {
      float sum = 0;
      for (int64_t c = 0; c < width; ++c)
        sum +=
            images[static_cast<size_t>(i * width + c)] * texts[static_cast<size_t>(t * width + c)];
      cosines.push_back(sum);
    }
  const auto at = [&](int64_t i, int64_t t) {
    return cosines[static_cast<size_t>(i * text_count + t)];
  };
  const auto owns = [&](int64_t i, int64_t t) { return image_of[static_cast<size_t>(t)] == i; };
  RetrievalPlaces places;
  for (int64_t i = 0; i < image_count; ++i) {
    int64_t best = text_count;
    for (int64_t own = 0; own < text_count; ++own) {
      int64_t place = 1;
      for (int64_t t = 0; t < text_count; ++t)
        place += owns(i, own) && !owns(i, t) && at(i, t) >= at(i, own);
      if (owns(i, own)) best = std::min(best, place);
    }
    places.of_text.push_back(best);
  }
  for (int64_t t = 0; t < text_count; ++t) {
    int64_t place = 1;
    for (int64_t i = 0; i < image_count; ++i)
      place += !owns(i, t) && at(i, t) >= at(image_of[static_cast<size_t>(t)], t);
    places.of_image.push_back(place);
  }
  return places;
}

/// 1 to 4 captions for each picture.
std::vector<int64_t> some_captions(int64_t images) {
  std::vector<int64_t> image_of;
  for (int64_t i = 0; i < images; ++i) image_of.insert(image_of.end(), 1 + i * i % 4, i);
  return image_of;
}

TEST(Retrieval, PlacesAreThoseOfTheWholeMatrixAtSizesWithinAndAcrossTiles) {
  constexpr int64_t kWidth = 8;
  for (const int64_t images : {1, 3, 512, 700}) {
    const std::vector<int64_t> image_of = some_captions(images);
    const auto texts = std::ssize(image_of);
    const auto image_values = whole_numbers(images * kWidth, 1);
    const auto text_values = whole_numbers(texts * kWidth, 2);
    const RetrievalPlaces places = retrieval_places(tensor({images, kWidth}, image_values),
                                                    tensor({texts, kWidth}, text_values), image_of);
    const RetrievalPlaces expected =
        from_the_whole_matrix(image_values, text_values, kWidth, image_of);
    EXPECT_EQ(places.of_text, expected.of_text) << images;
    EXPECT_EQ(places.of_image, expected.of_image) << images;
  }
}

TEST(Retrieval, EqualCosinesOfOthersComeFirstAndOwnCaptionsDoNotHinderEachOther) {
  // Captions 0 and 1 are of picture 0, caption 2 of picture 1, caption 3 of picture 2.
  const Tensor images = tensor({3, 2}, {1, 0, 0, 1, 0, 1});
  const Tensor texts = tensor({4, 2}, {1, 0, 1, 0, 1, 0, 0, 1});
  const RetrievalPlaces places = retrieval_places(images, texts, {0, 0, 1, 2});
  // Picture 0: its two captions tie with caption 2 of another. Picture 1: cosines 0, 0, 0, 1.
  EXPECT_EQ(places.of_text, (Places{2, 4, 1}));
  // Caption 3 is as near to picture 1 as to its own; caption 2 is behind picture 0, level with 2.
  EXPECT_EQ(places.of_image, (Places{1, 1, 3, 2}));
  EXPECT_EQ(recall_at(1, places.of_text).correct, 1);
  EXPECT_EQ(recall_at(3, places.of_text).correct, 2);
  EXPECT_EQ(recall_at(4, places.of_text).correct, 3);
  EXPECT_EQ(recall_at(1, places.of_text).tried, 3);
}

TEST(Retrieval, EqualFeaturesTieExactlyWhereverTheyStand) {
  constexpr int64_t kImages = 1100, kWidth = 33;
  std::vector<float> one(kWidth), all;
  Random random(3, 0);
  for (float& value : one) value = static_cast<float>(random.normal() / 6);
  for (int64_t i = 0; i < kImages; ++i) all.insert(all.end(), one.begin(), one.end());
  const Tensor features = tensor({kImages, kWidth}, all);
  std::vector<int64_t> image_of(kImages);
  for (int64_t i = 0; i < kImages; ++i) image_of[static_cast<size_t>(i)] = i;
  const RetrievalPlaces places = retrieval_places(features, features, image_of);
  EXPECT_EQ(places.of_text, Places(kImages, kImages));
  EXPECT_EQ(places.of_image, Places(kImages, kImages));
}

TEST(Retrieval, NothingIsFoundByFeaturesThatAreNotNumbers) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const RetrievalPlaces places =
      retrieval_places(tensor({3, 1}, {1, nan, 3}), tensor({3, 1}, {1, 2, nan}), {0, 1, 2});
  EXPECT_EQ(places.of_text, (Places{3, 3, 3}));
  EXPECT_EQ(places.of_image, (Places{3, 3, 3}));
}

TEST(Retrieval, MemoryIsThatOfOneTile) {
  CountingBackend backend;
  constexpr int64_t kImages = 3000, kTexts = 6000, kWidth = 4;
  const Tensor images = Tensor::zeros(backend, {kImages, kWidth}, DType::kF32);
  const Tensor texts = Tensor::zeros(backend, {kTexts, kWidth}, DType::kF32);
  std::vector<int64_t> image_of;
  for (int64_t i = 0; i < kTexts; ++i) image_of.push_back(i / 2);
  const int64_t before = backend.now();
  const RetrievalPlaces places = retrieval_places(images, texts, image_of);
  EXPECT_EQ(places.of_image, Places(kTexts, kImages));
  EXPECT_LT(backend.peak() - before, 4 * kImages * kTexts / 20);
}

TEST(Retrieval, PairsAreTheCaseOfOneCaptionEach) {
  const Tensor images = tensor({3, 2}, {1, 0, 0, 1, -1, 0});
  const Retrieval retrieval = retrieve(images, tensor({3, 2}, {1, 0, 1, 0, -1, 0}));
  EXPECT_EQ(retrieval.text_of_image.correct, 1);
  EXPECT_EQ(retrieval.image_of_text.correct, 2);
}

TEST(Retrieval, CaptionsThatDoNotFitTheirPicturesAreRefused) {
  const auto refusal = [](int64_t texts, const std::vector<int64_t>& image_of) {
    return error_message([&] {
      retrieval_places(Tensor::zeros(cpu_backend(), {2, 3}, DType::kF32),
                       Tensor::zeros(cpu_backend(), {texts, 3}, DType::kF32), image_of);
    });
  };
  EXPECT_EQ(refusal(3, {0, 0, 1}), "(no error)");
  EXPECT_TRUE(says(refusal(3, {0, 1}), "must have 3 rows, got 2"));
  EXPECT_TRUE(says(refusal(3, {0, 1, 0}), "picture 0 follows picture 1"));
  EXPECT_TRUE(says(refusal(2, {0, 2}), "picture 2 follows picture 0"));
  EXPECT_TRUE(says(refusal(2, {0, 0}), "2 pictures, but captions of 1"));
}

CaptionedPictures grouped(const std::string& path, Strings* left_out = nullptr) {
  const auto note = [&](const std::string& sentence) {
    if (left_out != nullptr) left_out->push_back(sentence);
  };
  return group_captions(*open_dataset(path, {}), note);
}

TEST(GroupCaptions, RowsOfOnePictureAreItsCaptions) {
  const ScratchFolder folder;
  const std::string path = folder.write(
      "data.csv", "filepath,title\na.ppm,one\nb.ppm,two\na.ppm,three\na.ppm,\nb.ppm,four\n");
  const CaptionedPictures pictures = grouped(path);
  EXPECT_EQ(pictures.size(), 2);
  EXPECT_EQ(pictures.captions, (Strings{"one", "three", "two", "four"}));
  EXPECT_EQ(pictures.image_of, (Places{0, 0, 1, 1}));
  EXPECT_EQ(pictures.samples, (Places{0, 1}));
  const auto dataset = open_dataset(path, {});
  EXPECT_EQ(group_captions(
                *dataset, [](const std::string&) {}, 2)
                .captions,
            (Strings{"one", "two"}));
}

TEST(GroupCaptions, LinesOfATextAreCaptionsInShardsAndFolders) {
  const ScratchFolder folder;
  const std::string shard = write_tar(folder, "a.tar",
                                      {{"0.ppm", picture(1)},
                                       {"0.txt", "one\r\n\n  two \n"},
                                       {"1.ppm", picture(2)},
                                       {"2.ppm", picture(3)},
                                       {"2.txt", "three"},
                                       {"3.ppm", picture(4)},
                                       {"3.txt", " \n"}});
  Strings left_out;
  const CaptionedPictures pictures = grouped(shard, &left_out);
  EXPECT_EQ(pictures.captions, (Strings{"one", "two", "three"}));
  EXPECT_EQ(pictures.image_of, (Places{0, 0, 1}));
  EXPECT_EQ(pictures.samples, (Places{0, 2}));
  ASSERT_EQ(left_out.size(), 2u);
  expect_contains(left_out[0], "1.ppm has no .txt");
  expect_contains(left_out[1], "blank");

  folder.write("f/0.ppm", picture(1));
  folder.write("f/0.txt", "one\ntwo");
  EXPECT_EQ(grouped(folder.path("f")).captions, (Strings{"one", "two"}));
}

/// Noise with captions; those that are `broken` here cannot be read, nor can their samples.
class NoisePairs final : public Dataset {
 public:
  explicit NoisePairs(std::vector<int64_t> broken) : broken_(std::move(broken)) {}

  int64_t size() const override { return 12; }
  Sample get(int64_t index, int64_t) const override {
    std::string text = caption(index);
    return {noise_picture(24, 24, static_cast<uint64_t>(index)), std::move(text)};
  }
  std::string caption(int64_t index) const override {
    if (std::count(broken_.begin(), broken_.end(), index) > 0)
      throw BrokenSample(concat("no caption ", index));
    return concat(sample_caption(index), "\nits other caption \xe9");
  }
  std::vector<std::string> captions() const override { return {sample_caption(1)}; }
  std::string describe() const override { return "noise"; }

 private:
  std::vector<int64_t> broken_;
};

TEST(EvaluateRetrieval, ACaptionThatOneRankCannotReadLeavesTheRanksOfOneMind) {
  const Tokenizer tokenizer = Tokenizer::learn({sample_caption(1)}, 520);
  ClipConfig config = tiny_config();
  config.text.vocab_size = tokenizer.vocab_size();
  ClipModel model(config, cpu_backend());
  randomize(model.parameters);
  const auto counts = [&](const std::vector<int64_t>& broken, Communicator* ranks) {
    const Retrieval result = evaluate_retrieval(model.clip, tokenizer, NoisePairs(broken), ranks);
    return Places{result.text_of_image.tried, result.text_of_image.correct,
                  result.image_of_text.tried, result.image_of_text.correct};
  };
  const Places alone = counts({3}, nullptr);
  EXPECT_EQ(alone[0], 11);
  EXPECT_EQ(alone[2], 22);
  for (const Places& broken_elsewhere : {Places{3}, Places{}, Places{0, 1, 2, 7}}) {
    const auto all = on_ranks(2, [&](Communicator& comm) {
      return counts(comm.rank() == 0 ? Places{3} : broken_elsewhere, &comm);
    });
    EXPECT_EQ(all, (std::vector<Places>{alone, alone})) << broken_elsewhere.size();
  }
}

TEST(GroupCaptions, APartOfThePicturesKeepsItsCaptions) {
  const CaptionedPictures all{{10, 20, 30}, {"a", "b", "c", "d", "e"}, {0, 1, 1, 1, 2}};
  const CaptionedPictures kept = all.only({1, 2});
  EXPECT_EQ(kept.samples, (Places{20, 30}));
  EXPECT_EQ(kept.captions, (Strings{"b", "c", "d", "e"}));
  EXPECT_EQ(kept.image_of, (Places{0, 0, 0, 1}));
}

}  // namespace
}  // namespace clip
