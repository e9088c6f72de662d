#include "tests/reference_features.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/random.h"
#include "models/features.h"
#include "models/training.h"

namespace clip {
namespace {

constexpr int64_t kPictures = 4, kTexts = 8;

Tensor draw_pictures(int64_t size) {
  Random random(3, random_stream("pictures"));
  std::vector<uint8_t> pixels(static_cast<size_t>(kPictures * size * size * 3));
  for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random.below(256));
  return Tensor::from<uint8_t>(cpu_backend(), {kPictures, size, size, 3}, pixels);
}

std::vector<std::vector<int32_t>> draw_texts(const TextConfig& config) {
  Random random(3, random_stream("texts"));
  const auto vocabulary = static_cast<int32_t>(config.vocab_size);
  std::vector<std::vector<int32_t>> texts;
  for (int64_t row = 0; row < kTexts; ++row) {
    std::vector<int32_t> text = {vocabulary - 2};
    for (int64_t words = (config.context_length - 2) * row / (kTexts - 1); words > 0; --words)
      text.push_back(static_cast<int32_t>(random.below(vocabulary - 2)));
    text.push_back(vocabulary - 1);
    texts.push_back(text);
  }
  return texts;
}

// The row of b that is most like each row of a, by cosine.
template <class T>
std::vector<size_t> matches(const std::vector<T>& a, const std::vector<T>& b, size_t width) {
  std::vector<size_t> best;
  for (size_t i = 0; i < a.size() / width; ++i) {
    std::vector<double> cosines;
    for (size_t j = 0; j < b.size() / width; ++j) {
      double product = 0, squares = 0;
      for (size_t k = 0; k < width; ++k) {
        product += static_cast<double>(a[i * width + k]) * b[j * width + k];
        squares += static_cast<double>(b[j * width + k]) * b[j * width + k];
      }
      cosines.push_back(product / std::sqrt(squares));
    }
    best.push_back(
        static_cast<size_t>(std::max_element(cosines.begin(), cosines.end()) - cosines.begin()));
  }
  return best;
}

}  // namespace

double relative_difference(const std::vector<float>& ours, const std::vector<double>& theirs) {
  CLIP_CHECK(ours.size() == theirs.size(), "the reference has ", theirs.size(), " numbers, we ",
             ours.size());
  double largest = 0, apart = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    const double error = std::abs(ours[i] - theirs[i]);
    if (std::isnan(error)) return error;  // std::max would drop it
    largest = std::max(largest, std::abs(theirs[i]));
    apart = std::max(apart, error);
  }
  return apart / largest;
}

FeatureDifference compare_features(const std::string& path, const WeightChoice& choice,
                                   const nlohmann::json& reference) {
  const ClipConfig config = load_config(path, choice);
  ClipModel model(config, cpu_backend());
  const auto not_finite = load_parameters(path, model.parameters);
  CLIP_CHECK(not_finite.empty(), path, ": weights are not finite");
  const auto images =
      model.clip.encode_image(draw_pictures(config.vision.image_size)).value().to_vector<float>();
  const auto texts = model.clip.encode_text(pack_tokens(draw_texts(config.text), cpu_backend()))
                         .value()
                         .to_vector<float>();
  const std::vector<double> their_images = reference.at("image_features");
  const std::vector<double> their_texts = reference.at("text_features");
  const auto width = static_cast<size_t>(config.embed_dim);
  return {
      .image = relative_difference(images, their_images),
      .text = relative_difference(texts, their_texts),
      .same_matches = matches(images, texts, width) == matches(their_images, their_texts, width) &&
                      matches(texts, images, width) == matches(their_texts, their_images, width)};
}

}  // namespace clip
