// Classifiers made of words.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "models/features.h"

namespace clip {

/// One unit vector per class: its prompts' unit vectors, averaged, made unit again.
/// Source: Radford et al. 2021, section 3.1.4.
struct Classifier {
  std::vector<std::string> labels;
  std::vector<std::string> templates;  ///< "a photo of a {}": {} stands for the label
  Tensor weights;                      ///< F32 [classes, E] on the CPU
};

/// throws clip::UsageError if there are no labels or no templates, or a template has no {}
Classifier build_classifier(const Clip& clip, const Tokenizer& tokenizer,
                            const std::vector<std::string>& labels,
                            const std::vector<std::string>& templates);

/// The classifier saved in a checkpoint for exactly these labels and templates, if there is one.
std::optional<Classifier> find_classifier(const std::string& checkpoint,
                                          const std::vector<std::string>& labels,
                                          const std::vector<std::string>& templates);
/// Saves it there, under classifiers/; returns the path.
std::string save_classifier(const std::string& checkpoint, const Classifier& classifier);

/// One class and how probable it is.
struct Guess {
  int64_t label = 0;
  double probability = 0;
};

/// softmax(exp(logit_scale) cosine) over the classes, most probable first (ties: lower class
/// first). A model of the sigmoid loss answers for each class alone, sigmoid(exp(logit_scale) cosine
/// + logit_bias): where nothing fits, nothing is probable. features [N, E], rows of unit length;
/// returns N lists of all classes
std::vector<std::vector<Guess>> classify(const Classifier& classifier, const Tensor& features,
                                         double logit_scale, std::optional<double> logit_bias = {});

/// Right answers among those tried.
struct Proportion {
  int64_t correct = 0;
  int64_t tried = 0;
  void count(bool right) {
    correct += right ? 1 : 0;
    ++tried;
  }
  double value() const {
    return tried == 0 ? 0.0 : static_cast<double>(correct) / static_cast<double>(tried);
  }
  /// Wilson's 95 % interval.
  double low() const;
  double high() const;
};

}  // namespace clip
