// The words of apps/evaluate, and what they are all told: a model, a device, where to write figures.
#pragma once

#include <boost/program_options.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "apps/common/model_options.h"
#include "apps/common/program.h"
#include "models/atomic_file.h"
#include "models/embedding_stream.h"

namespace clip {

/// `./apps/evaluate retrieval`, `./apps/evaluate linear_probe`: arguments from the word on.
void evaluate_retrieval_word(int argc, const char* const* argv);
void evaluate_linear_probe_word(int argc, const char* const* argv);

/// Adds --help, --checkpoint, --json, --batch-size, --workers, --precision, --device and the
/// model's.
void add_evaluation_options(boost::program_options::options_description& options);

/// What those options say, checked; then the model. Pictures that cannot be read are named on
/// standard error and counted.
class Evaluation {
 public:
  /// Opens --json's file, which must be none of the inputs: what is wrong with it is said first.
  /// throws clip::Error or UsageError in one sentence
  explicit Evaluation(const boost::program_options::variables_map& values);

  /// Once what is cheaper to check has been checked.
  const LoadedModel& load(Words words);

  EmbeddingOptions embedding(FeatureForm form = FeatureForm::kUnitLength);
  void leave_out(const std::string& sentence);
  int64_t left_out() const { return left_out_; }
  /// The figures, to the file of --json; not asked for if there is none.
  void write(const std::function<nlohmann::ordered_json()>& figures);

 private:
  std::string checkpoint_, device_name_, precision_;
  ModelOptions model_;
  int64_t batch_size_, workers_, left_out_ = 0;
  std::optional<AtomicFile> json_;
  ChosenDevice device_;  // outlives the model
  LoadedModel loaded_;
  std::optional<ConstantWeights> constant_;
};

}  // namespace clip
