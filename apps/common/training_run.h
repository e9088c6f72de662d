// What a training run is put together from, and what it tells.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "apps/common/program.h"
#include "apps/common/run_folder.h"
#include "apps/common/train_options.h"
#include "models/checkpoint.h"
#include "models/evaluation.h"
#include "models/training.h"

namespace clip {

/// Pairs to train on. `scenes` is the same object if they are emoji scenes.
struct TrainingData {
  std::shared_ptr<const Dataset> pairs;
  std::shared_ptr<const EmojiScenes> scenes;
  std::shared_ptr<const Dataset> validation;  ///< null without --val-data
};

/// The model's configuration, and where its weights and words come from.
struct ModelSource {
  ClipConfig config;
  std::shared_ptr<const Tokenizer> tokenizer;  ///< null until learned from the data's captions
  std::string checkpoint;                      ///< empty: fresh weights
};

ModelSource choose_model(const TrainOptions& options);
TrainingData open_training_data(const TrainOptions& options, const ClipConfig& config);
/// Learns the vocabulary if the model has none yet; its size becomes the model's.
void complete_vocabulary(ModelSource& source, const Dataset& pairs);

/// What must be the same on all ranks, by names that an error can tell.
nlohmann::json facts_of_run(const TrainOptions& options, const ChosenDevice& device,
                            const ModelSource& source, const TrainingData& data,
                            const TrainingState& state);

/// The same ranks between their GPUs; null if the backend is the CPU's.
std::unique_ptr<Communicator> join_gpus(Communicator& ranks, Backend& backend);

/// Gives every rank rank 0's weights and moments.
/// comm    between the devices that hold them
void share_parameters(ParameterList& parameters, Communicator& comm);

/// Prints and logs how training goes: one line that is renewed on a terminal, plain lines elsewhere.
class Progress {
 public:
  Progress(const RunFolder& run, const TrainOptions& options, LossKind loss, Communicator& ranks,
           int64_t first_step, int64_t last_step);

  /// Called after each step; tells about every log_every-th, the first and the last of the run,
  /// wherever it was stopped and resumed. Collective.
  void step(int64_t step, double lr, const StepMetrics& metrics, const HostBatch& batch,
            const Tensor& logit_scale, const AdamW& optimizer);
  /// A sentence between the lines.
  void say(const std::string& sentence);

 private:
  const RunFolder& run_;
  LossKind loss_;
  Communicator& ranks_;
  int64_t first_step_, last_step_, log_every_, global_batch_;
  bool terminal_;
  std::chrono::steady_clock::time_point start_, last_told_;
  int64_t last_told_step_;
  int64_t skipped_ = 0;  ///< steps, told so far
};

/// Zero-shot results as the last lines of a run print them, and as log.jsonl keeps them.
void report_scenes(const SceneReport& report, const RunFolder& run, int64_t step);
void report_retrieval(const Retrieval& retrieval, const RunFolder& run, int64_t step);

/// Draws a few scenes of unseen cells into the run's folder and returns the command that asks
/// apps/zero_shot about them.
std::string write_samples(const EmojiScenes& scenes, const RunFolder& run);

}  // namespace clip
