// Classifiers made of words.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "models/features.h"

namespace clip {

/// The words a classifier is made of. A class's prompts are the templates and its own.
struct ClassWords {
  std::vector<std::string> labels;
  std::vector<std::string> templates;  ///< "a photo of a {}": {} stands for the label
  /// [labels] prompts of each label alone, {} optional; empty: none has any
  std::vector<std::vector<std::string>> prompts = {};
};

/// throws clip::UsageError if there are no labels, a label has no prompt, or a template has no {}
void check_words(const ClassWords& words);

/// Prompts of each label from a file {"label": ["prompt", ...], ...} (that of CuPL, Pratt et al.
/// 2022, arXiv:2209.03320), where _ is read as a space; other keys are left alone.
/// throws clip::Error that names the file and the label that it lacks
std::vector<std::vector<std::string>> read_prompts(const std::string& path,
                                                   const std::vector<std::string>& labels);

/// One unit vector per class: its prompts' unit vectors, averaged, made unit again.
/// Source: Radford et al. 2021, section 3.1.4.
struct Classifier {
  ClassWords words;
  Tensor weights;  ///< F32 [classes, E] on the CPU
};

/// throws what check_words does
Classifier build_classifier(const Clip& clip, const Tokenizer& tokenizer, const ClassWords& words);

/// The classifier saved in a checkpoint for exactly these words, if there is one.
std::optional<Classifier> find_classifier(const std::string& checkpoint, const ClassWords& words);
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
/// throws clip::Error if a cosine is NaN or infinite
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
