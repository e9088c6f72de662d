#include "models/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "models/atomic_file.h"
#include "models/model_files.h"
#include "models/safetensors.h"
#include "models/strict_json.h"
#include "models/weights.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = "open_clip_config.json";
constexpr const char* kWeights = "open_clip_model.safetensors";
constexpr const char* kTokenizer = "tokenizer.json";
constexpr const char* kTrainingState = "training_state.safetensors";
constexpr const char* kFirstMoment = "first_moment/";
constexpr const char* kSecondMoment = "second_moment/";

std::string inside(const std::string& folder, const char* file) {
  return (fs::path(folder) / file).string();
}

bool exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

bool is_folder(const std::string& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

void write_weights(const std::string& path, ParameterList& parameters) {
  std::vector<SafetensorsItem> items;
  for (const Parameter& parameter : parameters.parameters())
    items.push_back(item_of(parameter.name, ParameterList::view(parameters.values(), parameter)));
  for (const Parameter& buffer : parameters.buffers())
    items.push_back(item_of(buffer.name, ParameterList::view(parameters.buffer_values(), buffer)));
  write_safetensors(path, items, {{"format", "pt"}});
}

void write_training_state(const std::string& path, ParameterList& parameters,
                          const TrainingState& training) {
  std::vector<SafetensorsItem> items;
  for (const Parameter& parameter : parameters.parameters()) {
    if (parameter.locked) continue;
    items.push_back(item_of(kFirstMoment + parameter.name,
                            ParameterList::view(parameters.first_moments(), parameter)));
    items.push_back(item_of(kSecondMoment + parameter.name,
                            ParameterList::view(parameters.second_moments(), parameter)));
  }
  write_safetensors(path, items,
                    {{"step", std::to_string(training.step)},
                     {"optimizer_steps", std::to_string(training.optimizer_steps)},
                     {"seed", std::to_string(training.seed)},
                     {"options", training.options},
                     {"global_batch", std::to_string(training.global_batch)}});
}

// A wrong path must not cost somebody's folder: only what is written here, or an empty folder, is
// replaced.
bool is_checkpoint_or_empty(const std::string& folder) {
  std::error_code error;
  return is_folder(folder) && (exists(inside(folder, kConfig)) ||
                               exists(inside(folder, kWeights)) || fs::is_empty(folder, error));
}

void make_parents(const std::string& folder) {
  std::error_code error;
  fs::path place = fs::absolute(folder, error).lexically_normal();
  if (!place.has_filename()) place = place.parent_path();
  fs::create_directories(place.parent_path(), error);
  CLIP_CHECK(!error, "cannot create ", place.parent_path().string(),
             " for a checkpoint: ", error.message());
}

template <class Number>
Number number_in(const SafetensorsFile& file, const char* key) {
  const auto found = file.metadata().find(key);
  CLIP_CHECK(found != file.metadata().end(), file.path(), ": its metadata has no ", key);
  const std::string& text = found->second;
  Number number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  CLIP_CHECK(error == std::errc() && end == text.data() + text.size() && number >= 0, file.path(),
             ": ", key, " in its metadata must be a whole number, got ", shown(text));
  return number;
}

// The k of "step_<k>", or -1.
int64_t step_of(const std::string& name) {
  constexpr std::string_view kPrefix = "step_";
  if (!name.starts_with(kPrefix)) return -1;
  int64_t step = -1;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  return error == std::errc() && stop == end ? step : -1;
}

// Headers and sizes are looked at, not the numbers: enough to tell a file that was cut short.
bool is_whole(const std::string& folder) {
  try {
    load_config(folder);
    SafetensorsFile weights(inside(folder, kWeights));
    if (exists(inside(folder, kTrainingState)))
      SafetensorsFile state(inside(folder, kTrainingState));
    return exists(inside(folder, kConfig)) && exists(inside(folder, kTokenizer));
  } catch (const Error&) {
    return false;
  }
}

std::optional<std::string> newest_within(const std::string& folder) {
  std::vector<std::pair<int64_t, std::string>> steps;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const int64_t step = step_of(entry->path().filename().string());
    if (step >= 0) steps.emplace_back(step, entry->path().string());
  }
  std::sort(steps.rbegin(), steps.rend());
  for (const auto& [step, path] : steps)
    if (is_whole(path)) return path;
  return {};
}

}  // namespace

void save_checkpoint(const std::string& folder, const ClipConfig& config, ParameterList& parameters,
                     const Tokenizer& tokenizer, const TrainingState* training) {
  config.check();
  CLIP_CHECK(training == nullptr || parameters.has_training_state(),
             "[save_checkpoint] a training state needs parameters with moments");
  CLIP_CHECK(tokenizer.vocab_size() <= config.text.vocab_size, "cannot save ", folder,
             ": the tokenizer has ", tokenizer.vocab_size(), " ids, text_cfg.vocab_size is ",
             config.text.vocab_size);
  CLIP_CHECK(!exists(folder) || is_checkpoint_or_empty(folder), "cannot save a checkpoint as ",
             folder, ": it is a file or a folder that holds other things");
  make_parents(folder);
  write_folder(folder, [&](const std::string& place) {
    write_file(inside(place, kConfig), to_json(config));
    // And the tokenizer_config.json that open_clip wants.
    tokenizer.save(inside(place, kTokenizer));
    write_weights(inside(place, kWeights), parameters);
    if (training != nullptr)
      write_training_state(inside(place, kTrainingState), parameters, *training);
  });
}

std::optional<std::string> newest_checkpoint(const std::string& run_folder) {
  return newest_within(inside(run_folder, "checkpoints"));
}

std::string find_checkpoint(const std::string& path) {
  CLIP_CHECK(exists(path), "there is no checkpoint or run ", path);
  if (!is_folder(path) || exists(inside(path, kConfig)) || find_model_files(path)) return path;
  if (auto newest = newest_checkpoint(path)) return *newest;
  if (auto newest = newest_within(path)) return *newest;
  throw Error(concat(path, " is neither a model (no ", kConfig, " in it, and none of ",
                     weight_file_names(),
                     ") nor a run with a whole checkpoint (no checkpoints/step_<k>)"));
}

TrainingState load_training_state(const std::string& checkpoint, ParameterList& parameters) {
  const std::string path = inside(checkpoint, kTrainingState);
  CLIP_CHECK(exists(path), checkpoint, " holds weights only: training cannot go on without ",
             kTrainingState);
  CLIP_CHECK(parameters.has_training_state(),
             "[load_training_state] the parameters have no moments to load into");
  const SafetensorsFile file(path);
  TrainingState training;
  training.step = number_in<int64_t>(file, "step");
  training.optimizer_steps = number_in<int64_t>(file, "optimizer_steps");
  training.seed = number_in<uint64_t>(file, "seed");
  const auto options = file.metadata().find("options");
  if (options != file.metadata().end()) training.options = options->second;
  if (file.metadata().contains("global_batch"))
    training.global_batch = number_in<int64_t>(file, "global_batch");
  std::vector<WeightTarget> targets;
  for (const Parameter& parameter : parameters.parameters()) {
    if (parameter.locked) continue;
    targets.push_back({kFirstMoment + parameter.name,
                       ParameterList::view(parameters.first_moments(), parameter)});
    targets.push_back({kSecondMoment + parameter.name,
                       ParameterList::view(parameters.second_moments(), parameter)});
  }
  read_weights(Weights(path), targets);
  return training;
}

}  // namespace clip
