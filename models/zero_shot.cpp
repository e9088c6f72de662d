#include "models/zero_shot.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "engine/random.h"
#include "models/safetensors.h"

namespace clip {
namespace {

/// A text that is the same for the same lists only: each string with its length in front.
std::string joined(const std::vector<std::string>& strings) {
  std::string text;
  for (const std::string& string : strings) text += concat(string.size(), ':', string);
  return text;
}

std::string classifier_path(const std::string& checkpoint, const std::vector<std::string>& labels,
                            const std::vector<std::string>& templates) {
  const uint64_t hash = random_stream(joined(labels) + '\n' + joined(templates));
  return (std::filesystem::path(checkpoint) / "classifiers" /
          concat(std::hex, hash, ".safetensors"))
      .string();
}

std::string with_label(const std::string& prompt, const std::string& label) {
  std::string text = prompt;
  const size_t place = text.find("{}");
  return text.replace(place, 2, label);
}

/// The `count` rows from `first` on, averaged and made unit length.
void mean_direction(const Tensor& features, int64_t first, int64_t count, float* out) {
  const int64_t width = features.width();
  std::vector<double> sum(static_cast<size_t>(width), 0.0);
  for (int64_t row = first; row < first + count; ++row)
    for (int64_t c = 0; c < width; ++c)
      sum[static_cast<size_t>(c)] += features.data<float>()[row * width + c];
  double squares = 0;
  for (double value : sum) squares += value * value;
  const double norm = std::max(std::sqrt(squares), 1e-12);
  for (int64_t c = 0; c < width; ++c)
    out[c] = static_cast<float>(sum[static_cast<size_t>(c)] / norm);
}

/// Wilson's interval is centre +- width.
std::pair<double, double> wilson(const Proportion& p) {
  constexpr double z = 1.959963984540054;
  const double n = static_cast<double>(p.tried), share = p.value();
  const double scale = 1 / (1 + z * z / n);
  const double width = z * std::sqrt(share * (1 - share) / n + z * z / (4 * n * n));
  return {scale * (share + z * z / (2 * n)), scale * width};
}

}  // namespace

Classifier build_classifier(const Clip& clip, const Tokenizer& tokenizer,
                            const std::vector<std::string>& labels,
                            const std::vector<std::string>& templates) {
  if (labels.empty()) throw UsageError("at least one label is needed, got none");
  if (templates.empty()) throw UsageError("at least one template is needed, got none");
  for (const std::string& prompt : templates)
    if (prompt.find("{}") == std::string::npos)
      throw UsageError(concat("a template needs {} where the label goes, got '", prompt, "'"));
  std::vector<std::string> prompts;
  for (const std::string& label : labels)
    for (const std::string& prompt : templates) prompts.push_back(with_label(prompt, label));
  const Tensor features = text_features(clip, tokenizer, prompts);  // [classes * templates, E]
  const int64_t classes = static_cast<int64_t>(labels.size()),
                count = static_cast<int64_t>(templates.size());
  Classifier classifier{labels, templates,
                        Tensor::empty(cpu_backend(), {classes, features.width()}, DType::kF32)};
  for (int64_t label = 0; label < classes; ++label)
    mean_direction(features, label * count, count,
                   classifier.weights.data<float>() + label * features.width());
  return classifier;
}

std::optional<Classifier> find_classifier(const std::string& checkpoint,
                                          const std::vector<std::string>& labels,
                                          const std::vector<std::string>& templates) {
  const std::string path = classifier_path(checkpoint, labels, templates);
  if (!std::filesystem::exists(path)) return std::nullopt;
  const SafetensorsFile file(path);
  const auto& metadata = file.metadata();
  const auto holds = [&](const char* key, const std::vector<std::string>& strings) {
    const auto found = metadata.find(key);
    return found != metadata.end() && found->second == joined(strings);
  };
  const StoredTensor* entry = file.find("class_embeddings");
  if (!holds("labels", labels) || !holds("templates", templates) || entry == nullptr ||
      entry->shape.size() != 2)
    return std::nullopt;  // another list of the same hash
  Classifier classifier{
      labels, templates,
      Tensor::empty(cpu_backend(), {entry->shape[0], entry->shape[1]}, DType::kF32)};
  file.read(*entry, "class_embeddings", DType::kF32, classifier.weights.raw());
  return classifier;
}

std::string save_classifier(const std::string& checkpoint, const Classifier& classifier) {
  const std::string path = classifier_path(checkpoint, classifier.labels, classifier.templates);
  std::error_code failure;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), failure);
  CLIP_CHECK(!failure, "cannot make the folder of ", path, ": ", failure.message());
  const Tensor& weights = classifier.weights;
  write_safetensors(
      path,
      {{"class_embeddings",
        DType::kF32,
        {weights.size(0), weights.size(1)},
        weights.data<float>()}},
      {{"labels", joined(classifier.labels)}, {"templates", joined(classifier.templates)}});
  return path;
}

std::vector<std::vector<Guess>> classify(const Classifier& classifier, const Tensor& features,
                                         double logit_scale, std::optional<double> logit_bias) {
  const Tensor similarity = cosines(features, classifier.weights);  // [N, classes]
  const int64_t classes = similarity.size(1);
  const double scale = std::exp(logit_scale);
  std::vector<std::vector<Guess>> all;
  for (int64_t row = 0; row < similarity.size(0); ++row) {
    const float* cosine = similarity.data<float>() + row * classes;
    const double largest = *std::max_element(cosine, cosine + classes);
    double total = 0;
    for (int64_t label = 0; label < classes; ++label)
      total += std::exp(scale * (cosine[label] - largest));
    std::vector<Guess> guesses;
    for (int64_t label = 0; label < classes; ++label)
      guesses.push_back({label, logit_bias
                                    ? 1 / (1 + std::exp(-scale * cosine[label] - *logit_bias))
                                    : std::exp(scale * (cosine[label] - largest)) / total});
    std::stable_sort(guesses.begin(), guesses.end(),
                     [](const Guess& a, const Guess& b) { return a.probability > b.probability; });
    all.push_back(std::move(guesses));
  }
  return all;
}

double Proportion::low() const {
  if (correct == 0) return 0;
  const auto [centre, width] = wilson(*this);
  return std::max(0.0, centre - width);
}

double Proportion::high() const {
  if (correct == tried) return 1;
  const auto [centre, width] = wilson(*this);
  return std::min(1.0, centre + width);
}

}  // namespace clip
