#include "models/zero_shot.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/random.h"
#include "models/atomic_file.h"
#include "models/labelled_pictures.h"
#include "models/safetensors.h"
#include "models/strict_json.h"

namespace clip {
namespace {

/// A text that is the same for the same lists only: each string with its length in front.
std::string joined(const std::vector<std::string>& strings) {
  std::string text;
  for (const std::string& string : strings) text += concat(string.size(), ':', string);
  return text;
}

/// What a saved classifier says of its words; without prompts of labels as it was before there were.
std::map<std::string, std::string> metadata_of(const ClassWords& words) {
  std::map<std::string, std::string> metadata = {{"labels", joined(words.labels)},
                                                 {"templates", joined(words.templates)}};
  if (words.prompts.empty()) return metadata;
  std::vector<std::string> lists;
  for (const auto& prompts : words.prompts) lists.push_back(joined(prompts));
  metadata["prompts"] = joined(lists);
  return metadata;
}

std::string classifier_path(const std::string& checkpoint, const ClassWords& words) {
  auto metadata = metadata_of(words);
  std::string text = metadata["labels"] + '\n' + metadata["templates"];
  if (!words.prompts.empty()) text += '\n' + metadata["prompts"];
  return (std::filesystem::path(checkpoint) / "classifiers" /
          concat(std::hex, random_stream(text), ".safetensors"))
      .string();
}

std::string with_label(const std::string& prompt, const std::string& label) {
  std::string text = prompt;
  const size_t place = text.find("{}");
  return place == std::string::npos ? text : text.replace(place, 2, label);
}

/// All prompts of one label.
std::vector<std::string> prompts_of(const ClassWords& words, size_t label) {
  std::vector<std::string> prompts;
  for (const std::string& prompt : words.templates)
    prompts.push_back(with_label(prompt, words.labels[label]));
  if (!words.prompts.empty())
    for (const std::string& prompt : words.prompts[label])
      prompts.push_back(with_label(prompt, words.labels[label]));
  return prompts;
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

void check_words(const ClassWords& words) {
  if (words.labels.empty()) throw UsageError("at least one label is needed, got none");
  for (const std::string& prompt : words.templates)
    if (prompt.find("{}") == std::string::npos)
      throw UsageError(concat("a template needs {} where the label goes, got '", prompt, "'"));
  CLIP_CHECK(words.prompts.empty() || words.prompts.size() == words.labels.size(),
             "[classifier] there must be prompts of ", words.labels.size(), " labels, got ",
             words.prompts.size());
  for (size_t label = 0; label < words.labels.size(); ++label)
    if (words.templates.empty() && (words.prompts.empty() || words.prompts[label].empty()))
      throw UsageError(
          concat("the label '", words.labels[label], "' needs at least one template or prompt"));
}

std::vector<std::vector<std::string>> read_prompts(const std::string& path,
                                                   const std::vector<std::string>& labels) {
  constexpr int64_t kMostBytes = 1 << 28;
  const nlohmann::json root = parse_json(read_file(path, kMostBytes), path);
  CLIP_CHECK(root.is_object(), path, ": expected an object of labels, found ", shown(root));
  std::map<std::string, std::vector<std::string>> found;
  for (const auto& [label, prompts] : root.items()) {
    const auto is_text = [](const nlohmann::json& prompt) { return prompt.is_string(); };
    CLIP_CHECK(prompts.is_array() && !prompts.empty() &&
                   std::all_of(prompts.begin(), prompts.end(), is_text),
               path, ": expected a list of prompts for ", shown(label), ", found ", shown(prompts));
    CLIP_CHECK(found.emplace(in_words(label), prompts.get<std::vector<std::string>>()).second, path,
               ": the label ", shown(in_words(label)), " occurs twice");
  }
  std::vector<std::vector<std::string>> all;
  for (const std::string& label : labels) {
    const auto place = found.find(in_words(label));
    CLIP_CHECK(place != found.end(), path, " has no prompts for the label ", shown(label));
    all.push_back(place->second);
  }
  return all;
}

Classifier build_classifier(const Clip& clip, const Tokenizer& tokenizer, const ClassWords& words) {
  check_words(words);
  const auto classes = std::ssize(words.labels);
  std::vector<std::string> all;
  std::vector<int64_t> first = {0};  // of each label's prompts
  for (size_t label = 0; label < words.labels.size(); ++label) {
    for (std::string& prompt : prompts_of(words, label)) all.push_back(std::move(prompt));
    first.push_back(std::ssize(all));
  }
  const Tensor features = text_features(clip, tokenizer, all);  // [prompts, E]
  Classifier classifier{words,
                        Tensor::empty(cpu_backend(), {classes, features.width()}, DType::kF32)};
  for (size_t label = 0; label < words.labels.size(); ++label)
    mean_direction(
        features, first[label], first[label + 1] - first[label],
        classifier.weights.data<float>() + static_cast<int64_t>(label) * features.width());
  return classifier;
}

std::optional<Classifier> find_classifier(const std::string& checkpoint, const ClassWords& words) {
  const std::string path = classifier_path(checkpoint, words);
  if (!std::filesystem::exists(path)) return std::nullopt;
  const SafetensorsFile file(path);
  for (const auto& [key, value] : metadata_of(words)) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end() || found->second != value)
      return std::nullopt;  // another list of the same hash
  }
  const StoredTensor* entry = file.find("class_embeddings");
  if (entry == nullptr || entry->shape.size() != 2) return std::nullopt;
  Classifier classifier{
      words, Tensor::empty(cpu_backend(), {entry->shape[0], entry->shape[1]}, DType::kF32)};
  file.read(*entry, "class_embeddings", DType::kF32, classifier.weights.raw());
  return classifier;
}

std::string save_classifier(const std::string& checkpoint, const Classifier& classifier) {
  const std::string path = classifier_path(checkpoint, classifier.words);
  std::error_code failure;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), failure);
  CLIP_CHECK(!failure, "cannot make the folder of ", path, ": ", failure.message());
  const Tensor& weights = classifier.weights;
  write_safetensors(path,
                    {{"class_embeddings",
                      DType::kF32,
                      {weights.size(0), weights.size(1)},
                      weights.data<float>()}},
                    metadata_of(classifier.words));
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
    for (int64_t label = 0; label < classes; ++label)
      CLIP_CHECK(std::isfinite(cosine[label]), "the cosine of a picture and the class ",
                 shown(classifier.words.labels[static_cast<size_t>(label)]),
                 " is NaN or infinite, and so no answer: the model's numbers are damaged");
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
