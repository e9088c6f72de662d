#include "models/retrieval.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <unordered_map>

#include "engine/parallel.h"
#include "models/dataset_files.h"

namespace clip {
namespace {

/// The cosines of a fixed number of pictures with a fixed number of captions, from a place of the
/// whole matrix on.
class CosineTile {
 public:
  static constexpr int64_t kImages = 512, kTexts = 768;  // whole blocks of the CPU's matmul

  CosineTile(const Tensor& images, const Tensor& texts)
      : images_(images),
        texts_(texts),
        cosines_(Tensor::empty(images.backend(), {kImages, kTexts}, DType::kF32)) {}

  void compute(int64_t first_image, int64_t first_text) {
    first_image_ = first_image;
    first_text_ = first_text;
    images_.backend().matmul(cosines_, rows_from(images_, first_image, kImages), Transpose::kNo,
                             rows_from(texts_, first_text, kTexts), Transpose::kYes, {});
  }

  int64_t first_image() const { return first_image_; }
  int64_t first_text() const { return first_text_; }
  int64_t last_image() const { return std::min(first_image_ + kImages, images_.size(0)); }
  int64_t last_text() const { return std::min(first_text_ + kTexts, texts_.size(0)); }

  /// Of one picture, from the tile's first caption on. Numbered as in the whole matrix.
  const float* row(int64_t image) const {
    return cosines_.data<float>() + (image - first_image_) * kTexts;
  }

 private:
  /// Zeros stand beyond the last row: with products of one shape alone, no kernel for ragged ends
  /// gives equal features cosines of other bits.
  static Tensor rows_from(const Tensor& x, int64_t first, int64_t count) {
    const int64_t rows = std::min(count, x.size(0) - first);
    if (rows == count) return x.slice(first, first + count);
    Tensor padded = Tensor::zeros(x.backend(), {count, x.width()}, DType::kF32);
    std::copy_n(x.data<float>() + first * x.width(), rows * x.width(), padded.data<float>());
    return padded;
  }

  const Tensor &images_, &texts_;
  Tensor cosines_;
  int64_t first_image_ = 0, first_text_ = 0;
};

/// What the right answers have.
struct RightCosines {
  std::vector<float> of_text;  ///< [M] of each caption with its picture
  std::vector<float> best;     ///< [I] of each picture with the best of its captions
};

RightCosines right_cosines(CosineTile& tile, int64_t images, const std::vector<int64_t>& image_of) {
  const int64_t texts = std::ssize(image_of);
  RightCosines right{
      std::vector<float>(static_cast<size_t>(texts)),
      std::vector<float>(static_cast<size_t>(images), -std::numeric_limits<float>::infinity())};
  // Captions are in the order of their pictures: tiles that hold right answers lie along a line.
  for (int64_t text = 0; text < texts;) {
    const int64_t image = image_of[static_cast<size_t>(text)];
    tile.compute(image / CosineTile::kImages * CosineTile::kImages,
                 text / CosineTile::kTexts * CosineTile::kTexts);
    for (; text < tile.last_text(); ++text) {
      const int64_t own = image_of[static_cast<size_t>(text)];
      if (own >= tile.last_image()) break;
      const float cosine = tile.row(own)[text - tile.first_text()];
      float& best = right.best[static_cast<size_t>(own)];
      right.of_text[static_cast<size_t>(text)] = cosine;
      if (cosine > best) best = cosine;
    }
  }
  return right;
}

/// Counts the wrong answers of a tile that are not below the right ones; NaN is not.
void count_ahead(RetrievalPlaces& places, const CosineTile& tile, const RightCosines& right,
                 const std::vector<int64_t>& image_of) {
  const int64_t texts = tile.last_text() - tile.first_text();
  const int64_t* owners = image_of.data() + tile.first_text();
  parallel_for(tile.last_image() - tile.first_image(), [&](int64_t i) {
    const int64_t image = tile.first_image() + i;
    const float* cosines = tile.row(image);
    const float best = right.best[static_cast<size_t>(image)];
    int64_t ahead = 0;
    for (int64_t t = 0; t < texts; ++t) ahead += !(cosines[t] < best) && owners[t] != image;
    places.of_text[static_cast<size_t>(image)] += ahead;
  });
  constexpr int64_t kStrip = 96;
  const float* own = right.of_text.data() + tile.first_text();
  int64_t* counts = places.of_image.data() + tile.first_text();
  parallel_for((texts + kStrip - 1) / kStrip, [&](int64_t strip) {
    const int64_t end = std::min((strip + 1) * kStrip, texts);
    for (int64_t image = tile.first_image(); image < tile.last_image(); ++image) {
      const float* cosines = tile.row(image);
      for (int64_t t = strip * kStrip; t < end; ++t)
        counts[t] += !(cosines[t] < own[t]) && owners[t] != image;
    }
  });
}

void check_features(const Tensor& images, const Tensor& texts,
                    const std::vector<int64_t>& image_of) {
  CLIP_CHECK(images.size(0) > 0, "[retrieval] needs at least one picture");
  CLIP_CHECK(images.width() == texts.width(), "[retrieval] texts must be [M, ", images.width(),
             "], got ", texts.shape());
  CLIP_CHECK(std::ssize(image_of) == texts.size(0), "[retrieval] image_of must have ",
             texts.size(0), " rows, got ", image_of.size());
  int64_t last = -1;
  for (const int64_t image : image_of) {
    CLIP_CHECK(image == last || image == last + 1,
               "[retrieval] captions must be in the order of their pictures, with no picture left "
               "out: picture ",
               image, " follows picture ", last);
    last = image;
  }
  CLIP_CHECK(last + 1 == images.size(0), "[retrieval] there are ", images.size(0),
             " pictures, but captions of ", last + 1);
}

}  // namespace

RetrievalPlaces retrieval_places(const Tensor& images, const Tensor& texts,
                                 const std::vector<int64_t>& image_of) {
  check_features(images, texts, image_of);
  CosineTile tile(images, texts);
  const RightCosines right = right_cosines(tile, images.size(0), image_of);
  RetrievalPlaces places{std::vector<int64_t>(right.best.size(), 1),
                         std::vector<int64_t>(image_of.size(), 1)};
  for (int64_t image = 0; image < images.size(0); image += CosineTile::kImages)
    for (int64_t text = 0; text < texts.size(0); text += CosineTile::kTexts) {
      tile.compute(image, text);
      count_ahead(places, tile, right, image_of);
    }
  return places;
}

Proportion recall_at(int64_t k, const std::vector<int64_t>& places) {
  Proportion recall;
  for (const int64_t place : places) recall.count(place <= k);
  return recall;
}

CaptionedPictures CaptionedPictures::only(const std::vector<int64_t>& pictures) const {
  CaptionedPictures kept;
  for (const int64_t picture : pictures) {
    const auto [begin, end] = std::equal_range(image_of.begin(), image_of.end(), picture);
    for (auto place = begin; place != end; ++place)
      kept.captions.push_back(captions[static_cast<size_t>(place - image_of.begin())]);
    kept.image_of.resize(kept.captions.size(), kept.size());
    kept.samples.push_back(samples.at(static_cast<size_t>(picture)));
  }
  return kept;
}

std::string CaptionedPictures::to_text() const {
  std::string text;
  for (size_t i = 0; i < captions.size(); ++i)
    text += concat(samples[static_cast<size_t>(image_of[i])], ' ', captions[i], '\n');
  return text;
}

CaptionedPictures CaptionedPictures::from_text(const std::string& text) {
  CaptionedPictures pictures;
  std::istringstream lines(text);
  int64_t sample = 0;
  for (std::string caption; lines >> sample && lines.get() && std::getline(lines, caption);) {
    if (pictures.samples.empty() || pictures.samples.back() != sample)
      pictures.samples.push_back(sample);
    pictures.captions.push_back(std::move(caption));
    pictures.image_of.push_back(pictures.size() - 1);
  }
  return pictures;
}

CaptionedPictures group_captions(const Dataset& dataset,
                                 const std::function<void(const std::string&)>& left_out,
                                 int64_t limit) {
  CaptionedPictures grouped;
  std::unordered_map<std::string, size_t> places;  // of a picture's name among them
  std::vector<std::vector<std::string>> captions;
  for (int64_t i = 0; i < std::min(limit, dataset.size()); ++i) {
    std::vector<std::string> lines;
    try {
      std::istringstream text(dataset.caption(i));
      for (std::string line; std::getline(text, line);)
        if (!trim(line).empty()) lines.emplace_back(trim(line));
      if (lines.empty()) throw BrokenSample(concat("the caption of sample ", i, " is blank"));
    } catch (const BrokenSample& error) {
      left_out(error.what());
      continue;
    }
    const auto [place, is_new] = places.try_emplace(dataset.picture_name(i), captions.size());
    if (is_new) {
      grouped.samples.push_back(i);
      captions.emplace_back();
    }
    auto& all = captions[place->second];
    all.insert(all.end(), lines.begin(), lines.end());
  }
  for (size_t i = 0; i < captions.size(); ++i) {
    grouped.captions.insert(grouped.captions.end(), captions[i].begin(), captions[i].end());
    grouped.image_of.resize(grouped.captions.size(), static_cast<int64_t>(i));
  }
  return grouped;
}

}  // namespace clip
