// What a training run is made with: the command line over a file over a resumed run's options over
// the defaults.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "apps/common/model_options.h"
#include "autograd/optimizer.h"
#include "models/clip.h"

namespace clip {

/// Named like open_clip's options where they mean the same.
struct TrainOptions {
  std::string model;
  bool model_given = false;  ///< not the default
  std::string pretrained;
  bool force_quick_gelu = false;
  VocabularyChoice vocabulary;
  std::string train_data;  ///< empty: emoji scenes
  std::string val_data;
  std::string csv_image_key, csv_caption_key, csv_separator;
  std::string font;
  bool shuffle = true;
  bool augment = true;
  double patch_dropout = 0;  ///< share of a picture's patches left out in training
  bool siglip = false;       ///< a new model gets the sigmoid loss
  double siglip_bias_init = 0;
  LockedTowers locked;
  std::string feature_cache;  ///< folder of locked towers' features; empty: in the run's
  int64_t workers = 0;

  int64_t batch_size = 0;  ///< pairs of a rank's micro-batch
  int64_t accum_freq = 1;  ///< micro-batches of a step
  Activations activations = Activations::kKept;
  std::string precision;  ///< for choose_precision()
  int64_t steps = 0;      ///< -1: as many as `epochs` make
  int64_t epochs = 0;
  LearningRate lr;  ///< total_steps is set by plan_steps(), once the data are known
  OptimizerOptions optimizer;
  uint64_t seed = 0;
  std::string device;

  std::string logs, name;
  int64_t log_every = 0;
  bool profile = false;     ///< where the time goes, by op
  int64_t save_epochs = 0;  ///< epochs between checkpoints, 0: at the end alone
  int64_t save_steps = 0;   ///< steps between checkpoints besides
  bool delete_previous = false;

  std::string run_folder;         ///< logs/name
  std::string resume_checkpoint;  ///< empty: training starts at step 0
  std::string resume_config;      ///< the options of the run to go on from
  bool same_run = false;          ///< run_folder is the run that goes on, with its log
  nlohmann::json json;            ///< every option that makes the run what it is; --config reads it

  int64_t pairs_per_step(int64_t ranks) const { return ranks * accum_freq * batch_size; }
  /// Whether a checkpoint is due after so many steps.
  bool saves_after(int64_t step, int64_t steps_per_epoch) const;
};

/// throws UsageError that names the option, what was expected and what was given
TrainOptions parse_train_options(int argc, const char* const* argv);

}  // namespace clip
