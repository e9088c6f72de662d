// What a training run is put together from, and what it tells.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/common/program.h"
#include "apps/common/ranks.h"
#include "apps/common/run_folder.h"
#include "apps/common/train_options.h"
#include "models/checkpoint.h"
#include "models/data_loader.h"
#include "models/emoji_scenes.h"
#include "models/feature_cache.h"
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

/// Gives the model the weights that the run starts from: the checkpoint's that it goes on from, with
/// its moments, those of --pretrained, or fresh ones. Returns where training stands.
TrainingState start_state(const TrainOptions& options, const ModelSource& source, ClipModel& model,
                          AdamW& optimizer, const Ranks& ranks);

LoaderOptions loader_options(const TrainOptions& options, const ClipConfig& config,
                             const Communicator& comm);

/// Completes the learning rate's schedule and returns its steps, those of the whole run.
int64_t plan_steps(TrainOptions& options, int64_t steps_per_epoch, const TrainingState& state);

/// What must be the same on all ranks, by names that an error can tell.
nlohmann::json facts_of_run(const TrainOptions& options, const ChosenDevice& device,
                            const ModelSource& source, const TrainingData& data,
                            const TrainingState& state);

/// The same ranks between their GPUs; null if the backend is the CPU's.
std::unique_ptr<Communicator> join_gpus(Communicator& ranks, Backend& backend);

/// Gives every rank rank 0's weights and moments.
/// comm    between the devices that hold them
void share_parameters(ParameterList& parameters, Communicator& comm);

/// Prints what is trained, on what, and what a user should know of it before the first step.
void announce_run(const TrainOptions& options, const ChosenDevice& device,
                  const ModelSource& source, const TrainingData& data, const ClipModel& model,
                  const TrainingState& state, const Communicator& comm);

/// A batch of the loader on its way to the towers: on the device, in micro-batches, without the
/// patches that training leaves out, with what locked towers have made of it before.
class MicroBatches {
 public:
  /// data    Dataset::describe()
  MicroBatches(const ClipModel& model, const TrainOptions& options, const std::string& data);

  std::vector<Batch> operator()(const HostBatch& host);
  std::vector<std::string> take_warnings();

 private:
  int64_t parts_, patches_;
  double patch_dropout_;
  uint64_t seed_;
  BatchUploader upload_;
  std::optional<LockedFeatures> known_;  ///< of locked towers
};

/// Writes the run's report.html as it is now; what is wrong with it is said and ends no training. Of
/// several ranks the first does.
void renew_report(const RunFolder& run);

/// Writes the run's checkpoints, and its report as it is then; of several ranks the first does.
class Checkpoints {
 public:
  Checkpoints(const RunFolder& run, const TrainOptions& options, const ModelSource& source,
              ClipModel& model, const AdamW& optimizer, int64_t first_step);

  /// Of the step that `state` stands at, unless it is there.
  void save(TrainingState& state);
  const std::string& newest() const { return newest_; }

 private:
  const RunFolder& run_;
  const ModelSource& source_;
  ClipModel& model_;
  const AdamW& optimizer_;
  bool delete_previous_;
  std::string newest_;  ///< of this run; empty if there is none
};

/// Prints and logs how training goes: one line that is renewed on a terminal, plain lines elsewhere.
class Progress {
 public:
  Progress(const RunFolder& run, const TrainOptions& options, LossKind loss, Communicator& ranks,
           int64_t first_step);

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

/// Measures the trained model by its data and prints the results as the last lines of a run, with a
/// command to go on with; log and report keep them. Collective.
void report_results(const Clip& clip, const Tokenizer& tokenizer, const TrainingData& data,
                    const RunFolder& run, int64_t step, Communicator& ranks);

}  // namespace clip
