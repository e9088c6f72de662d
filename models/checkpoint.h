// A checkpoint is a folder that open_clip reads as it is:
//   open_clip_config.json, open_clip_model.safetensors, tokenizer.json, tokenizer_config.json, and
//   training_state.safetensors (moments, step, data position) for --resume.
// It is written under a temporary name, synced and renamed, so a folder of the final name is always
// whole.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "autograd/parameter_list.h"
#include "models/config.h"
#include "models/tokenizer.h"
#include "models/weights.h"

namespace clip {

/// Where training stands, beside the parameters.
struct TrainingState {
  int64_t step = 0;             ///< steps done = next batch of the data order
  int64_t optimizer_steps = 0;  ///< updates done (skipped steps left out)
  uint64_t seed = 0;
  std::string options;  ///< the run's config.json, so that a resumed run can be held against it
  int64_t global_batch = 0;  ///< pairs of a step over all ranks; 0: the file does not say
};

/// Writes the folder; `training` may be null (inference only). An existing checkpoint of that name
/// is replaced whole; a folder of other things is not. Weights and moments keep the list's dtype,
/// so that a resumed run has the same bits.
/// throws clip::Error that names the path; then nothing of that name has changed and no temporary is
/// left
void save_checkpoint(const std::string& folder, const ClipConfig& config, ParameterList& parameters,
                     const Tokenizer& tokenizer, const TrainingState* training);

/// What a user means by a path: a model's folder or weight file, or a run (runs/<name>), whose
/// newest whole checkpoint is taken.
/// throws clip::Error that names the path and what was looked for
std::string find_checkpoint(const std::string& path);

/// The newest whole checkpoint of a run folder, if there is one.
std::optional<std::string> newest_checkpoint(const std::string& run_folder);

/// The functions below read a model of any layout of models/model_files.h and any container of
/// models/weights.h: open_clip's and Hugging Face's folders, OpenAI's archives, bare state dicts.

/// The model's sizes and activation, from its configuration file; without one, from the shapes of
/// its weights and `choice`.
/// throws clip::UsageError if `choice` names another model than the configuration describes
ClipConfig load_config(const std::string& checkpoint, const WeightChoice& choice = {});

/// From the folder, or the one that a weight file lies in.
/// throws clip::Error that names the files looked for
Tokenizer load_tokenizer(const std::string& checkpoint);

/// Reads the weights and the buffers into an allocated list, as F32 or F64. Returns the names of
/// those that hold NaN or infinity.
/// throws clip::Error that names file and tensor: missing, left over, or of another shape (both
/// shapes are told); then nothing was read
std::vector<std::string> load_parameters(const std::string& checkpoint, ParameterList& parameters);

/// Reads the moments too; throws clip::Error if the folder holds no training state.
TrainingState load_training_state(const std::string& checkpoint, ParameterList& parameters);

}  // namespace clip
