// How programs that read a model are told about one whose files do not say everything.
#pragma once

#include <boost/program_options.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/common/option_values.h"
#include "models/checkpoint.h"
#include "models/clip.h"

namespace clip {

/// What --bpe reads, as --help puts it.
inline constexpr const char* kBpeHelp =
    "CLIP's own vocabulary of 49,408 ids, from its bpe_simple_vocab_16e6.txt.gz";

/// The vocabulary that --tokenizer or --bpe names, if any.
struct VocabularyChoice {
  std::string tokenizer, bpe;  ///< paths; not both

  VocabularyChoice() = default;
  /// throws UsageError if both are given
  explicit VocabularyChoice(const boost::program_options::variables_map& values);
  bool given() const { return !tokenizer.empty() || !bpe.empty(); }
  std::string path() const { return bpe.empty() ? tokenizer : bpe; }
  Tokenizer load() const { return bpe.empty() ? Tokenizer::load(tokenizer) : clip_tokenizer(bpe); }
};

/// Adds --help and --checkpoint; others may follow in parentheses.
boost::program_options::options_description_easy_init add_first_options(
    boost::program_options::options_description& options);
/// Adds --model, --force-quick-gelu, --tokenizer and --bpe.
void add_model_options(boost::program_options::options_description& options);

/// What those options say. Any of them makes the model another one than its files alone would.
struct ModelOptions {
  WeightChoice choice;
  VocabularyChoice vocabulary;

  explicit ModelOptions(const boost::program_options::variables_map& values);
  bool given() const;
};

/// A model ready to run.
struct LoadedModel {
  std::string checkpoint;  ///< what was found at the path
  std::unique_ptr<ClipModel> model;
  std::unique_ptr<Tokenizer> tokenizer;  ///< null if there is none

  const Clip& clip() const { return model->clip; }
  double logit_scale() const { return model->clip.logit_scale.value().item(); }
  std::optional<double> logit_bias() const;  ///< of a model of the sigmoid loss
  /// The picture as the image tower takes it.
  Image prepare(const Image& image) const;
};

/// Whether a model is of use without a tokenizer.
enum class Words { kNeeded, kIfThere };

/// Warns on standard error of weights that are NaN or infinite.
/// precision    what the towers compute in
/// throws clip::Error or UsageError in one sentence
LoadedModel load_model(const std::string& path, const ModelOptions& options, Backend& backend,
                       DType precision = DType::kF32, Words words = Words::kNeeded);

/// The chosen tokenizer, else the model's own, else CLIP's if the model has its 49,408 embeddings;
/// checked to have no id that the model lacks.
Tokenizer load_tokenizer(const std::string& checkpoint, const VocabularyChoice& choice,
                         const ClipConfig& config);

/// Prints what load_parameters() found, if anything.
void warn_not_finite(const std::vector<std::string>& parameters, const std::string& checkpoint);

}  // namespace clip
