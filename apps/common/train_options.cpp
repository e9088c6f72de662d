#include "apps/common/train_options.h"

#include <cmath>
#include <filesystem>

#include "apps/common/program.h"
#include "apps/common/run_folder.h"
#include "models/atomic_file.h"
#include "models/checkpoint.h"

namespace po = boost::program_options;
namespace fs = std::filesystem;

namespace clip {
namespace {

/// Defaults of the built-in data and of a user's own differ: a recipe for each.
struct Recipe {
  const char* model;
  int64_t batch_size, steps;
  double lr, weight_decay;
};
constexpr Recipe kEmoji = {"emoji", 128, 1000, 1e-3, 0.1};
constexpr Recipe kOwnData = {"tiny", 256, -1, 5e-4, 0.2};

std::string usage() {
  return concat(
      "Trains CLIP. Without options: a small model on emoji scenes, about two minutes on two "
      "cores.\nExample:\n  ./apps/train --train-data pairs.csv --batch-size 256 --epochs 10 --name "
      "first\nWith --train-data the defaults are --model ",
      kOwnData.model, " --batch-size ", kOwnData.batch_size, " --steps ", kOwnData.steps, " --lr ",
      kOwnData.lr, " --wd ", kOwnData.weight_decay, ".\n");
}

po::options_description option_list(const Recipe& recipe) {
  const auto text = [](const std::string& value = "") {
    return po::value<std::string>()->default_value(value);
  };
  const auto number = [](int64_t value) { return po::value<int64_t>()->default_value(value); };
  const auto real = [](double value) {
    return po::value<double>()->default_value(value, concat(value));
  };
  po::options_description options("Options");
  // clang-format off
  options.add_options()
    ("help", "print this and exit")
    ("train-data", text(), "pairs: a CSV or TSV, a folder of pictures with .txt beside them or of the files of "
                           "CIFAR or MNIST, or tar shards \"shard-{0000..0009}.tar\"; empty: emoji scenes")
    ("val-data", text(), "pairs to measure retrieval on at the end, in the same forms")
    ("csv-img-key", text("filepath"), "CSV column of the picture's path")
    ("csv-caption-key", text("title"), "CSV column of the caption")
    ("csv-separator", text(), "one character; empty: tab or comma, as the header has it")
    ("font", text(), "colour font of the emoji scenes; empty: the usual places")
    ("model", text(recipe.model), "model by name, or an open_clip configuration file (.json)")
    ("pretrained", text(), "model to start from: a checkpoint's folder or a run's, an open_clip or Hugging Face "
                           "folder, or a weight file (OpenAI's .pt, a state dict, .safetensors). Its configuration "
                           "is its own; without one, by the shapes, or --model if given")
    ("force-quick-gelu", po::bool_switch(), "the model computes QuickGELU, whatever its name or files say")
    ("tokenizer", text(), "tokenizer.json, vocab.json with merges.txt beside it, a merges file, or a folder with "
                          "them; empty: that of --pretrained, or CLIP's own if it has none and 49,408 ids; "
                          "without --pretrained a vocabulary is learned from the captions")
    ("bpe", text(), kBpeHelp)
    ("batch-size", number(recipe.batch_size), "pairs of a step; with --accum-freq of a micro-batch, under mpirun of each rank")
    ("accum-freq", number(1), "micro-batches of a step; the gradient is that of all their pairs at once, but for "
                              "a ResNet's batch norm, which sees one at a time")
    ("grad-checkpointing", po::bool_switch(), "keep a block's input alone and compute the rest again in backward")
    ("precision", text("fp32"), "fp32; bf16: weights kept in F32, towers computed in BF16; auto: bf16 where "
                                "the device has instructions for it")
    ("siglip", po::bool_switch(), "train a new model with the pairwise sigmoid loss instead of CLIP's softmax loss; a "
                                  "checkpoint keeps its own")
    ("siglip-bias-init", real(-10), "logit bias that --siglip starts from")
    ("patch-dropout", real(0), "share of each picture's patches that training leaves out at random (FLIP)")
    ("lock-image", po::bool_switch(), "leave the image tower as --pretrained has it (LiT); with --augment none each "
                                      "picture passes it once")
    ("lock-text", po::bool_switch(), "leave the text tower as --pretrained has it; each caption passes it once")
    ("feature-cache", text(), "folder of what locked towers computed; empty: features/ in the run's folder")
    ("steps", number(recipe.steps), "steps; -1: by --epochs; 0: write the initial checkpoint")
    ("epochs", number(32), "passes over the data, where --steps is -1")
    ("lr", real(recipe.lr), "largest learning rate")
    ("lr-scheduler", text("cosine"), "cosine or const")
    ("warmup", number(-1), "steps of linear warm-up; -1: a twentieth of the run, at most 2000")
    ("wd", real(recipe.weight_decay), "weight decay of matrices")
    ("beta1", real(0.9), "AdamW")
    ("beta2", real(0.98), "AdamW")
    ("eps", real(1e-6), "AdamW")
    ("grad-clip-norm", real(1.0), "largest gradient norm; 0: no clipping")
    ("seed", number(0), "of weights, data order and crops")
    ("no-shuffle", po::bool_switch(), "take the samples in their order")
    ("augment", text("crop"), "crop (random resized crop of 90 to 100 % of the area) or none")
    ("workers", number(2), "threads that read and draw pictures")
    ("device", text("auto"), "auto, cpu or cuda[:i]")
    ("logs", text("runs"), "folder of all runs")
    ("name", text(), "the run's folder under --logs; empty: the model's name and a number")
    ("log-every-n-steps", number(10), "steps between log lines")
    ("profile", po::bool_switch(), "print at the end where the time of the steps went, by op. Waiting for the device "
                                   "after each op, as it does, slows a GPU")
    ("save-frequency", number(1), "epochs between checkpoints; 0: at the end alone")
    ("save-steps", number(0), "steps between checkpoints, besides; 0: none")
    ("delete-previous-checkpoint", po::bool_switch(), "keep the newest checkpoint alone")
    ("resume", text(), "latest, a run's folder or a checkpoint: go on as if never stopped; the run's options hold "
                       "unless given anew")
    ("config", text(), "JSON file of options, such as a run's config.json; the command line comes first");
  // clang-format on
  return options;
}

nlohmann::json read_json(const std::string& option, const std::string& path) {
  auto json = nlohmann::json::parse(read_file(path, 1 << 20), nullptr, false);
  if (!json.is_object())
    throw UsageError(concat(option, ": ", path, " is not a JSON object of options"));
  return json;
}

/// Options of a JSON object as if they had been typed, of lower rank than what `values` holds.
void store_json(const nlohmann::json& json, const std::string& path,
                const po::options_description& options, po::variables_map& values) {
  po::parsed_options parsed(&options);
  for (const auto& [key, value] : json.items()) {
    const po::option_description* known = options.find_nothrow(key, false);
    if (known == nullptr) throw UsageError(concat(path, ": there is no option '", key, "'"));
    const bool is_switch = known->semantic()->max_tokens() == 0;
    if (is_switch != value.is_boolean() || value.is_structured() || value.is_null())
      throw UsageError(concat(path, ": option '", key, "' cannot be ", value.dump()));
    if (is_switch && !value.get<bool>()) continue;
    po::option option;
    option.string_key = key;
    if (!is_switch)
      option.value.push_back(value.is_string() ? value.get<std::string>() : value.dump());
    parsed.options.push_back(std::move(option));
  }
  try {
    po::store(parsed, values);
  } catch (const po::error& error) {
    throw UsageError(concat(path, ": ", error.what()));
  }
}

constexpr auto kReplace = nlohmann::json::error_handler_t::replace;

/// Everything but where the run is kept and how it is watched.
nlohmann::json to_json(const po::variables_map& values) {
  nlohmann::json json;
  for (const auto& [name, value] : values) {
    if (name == "help" || name == "resume" || name == "config" || name == "name" ||
        name == "logs" || name == "profile")
      continue;
    if (value.value().type() == typeid(std::string)) {
      json[name] = value.as<std::string>();
      if (json[name] != nlohmann::json::parse(json[name].dump(-1, ' ', false, kReplace)))
        throw UsageError(concat("--", name, " must be UTF-8, got '", value.as<std::string>(), "'"));
    }
    if (value.value().type() == typeid(int64_t)) json[name] = value.as<int64_t>();
    if (value.value().type() == typeid(double)) json[name] = value.as<double>();
    if (value.value().type() == typeid(bool)) json[name] = value.as<bool>();
  }
  return json;
}

/// The checkpoint to go on from and the folder to go on in.
void resolve_resume(const std::string& resume, TrainOptions& options) {
  const bool named = !options.name.empty();
  std::string from = resume;
  if (resume == "latest")
    from = named ? (fs::path(options.logs) / options.name).string() : latest_run(options.logs);
  // A run that was killed before its first checkpoint starts over.
  const bool has_checkpoint = !is_run(from) || newest_checkpoint(from).has_value();
  if (has_checkpoint) options.resume_checkpoint = find_checkpoint(from);
  const fs::path checkpoint = fs::weakly_canonical(options.resume_checkpoint);
  const fs::path own_run =
      has_checkpoint ? checkpoint.parent_path().parent_path() : fs::weakly_canonical(from);
  options.resume_config = (own_run / kRunConfig).string();
  options.run_folder = named ? (fs::path(options.logs) / options.name).string() : own_run.string();
  if (fs::weakly_canonical(options.run_folder) != own_run)
    return;  // goes on as a run of another name
  options.run_folder = fs::proximate(own_run).string();
  options.same_run = true;
  if (!has_checkpoint) return;
  const std::string newest =
      newest_checkpoint(options.run_folder).value_or(options.resume_checkpoint);
  if (!fs::equivalent(newest, checkpoint))
    throw UsageError(
        concat("--resume ", resume, ": the run has a newer checkpoint, ", newest,
               ", which going on would overwrite; resume that one, or give the new run a --name"));
}

}  // namespace

namespace {

void check_locks(const TrainOptions& options) {
  const bool fresh = options.pretrained.empty() && options.resume_checkpoint.empty();
  if (options.locked.image && options.patch_dropout > 0)
    throw UsageError(concat("--patch-dropout must be 0 with --lock-image, got ",
                            options.patch_dropout, ": a locked tower sees whole pictures"));
  if (fresh && (options.locked.image || options.locked.text))
    throw UsageError(concat(options.locked.image ? "--lock-image" : "--lock-text",
                            " needs --pretrained: a tower of random weights would stay random"));
}

}  // namespace

bool TrainOptions::saves_after(int64_t step, int64_t steps_per_epoch) const {
  const auto due = [&](int64_t every) { return every > 0 && step % every == 0; };
  return due(save_steps) || due(save_epochs * steps_per_epoch);
}

TrainOptions parse_train_options(int argc, const char* const* argv) {
  // Which recipe holds, and which files add options, is known after a first look.
  auto first_look = parse_options(argc, argv, option_list(kEmoji), usage());
  TrainOptions options;
  options.logs = first_look["logs"].as<std::string>();
  options.name = first_look["name"].as<std::string>();
  const std::string resume = first_look["resume"].as<std::string>(),
                    config = first_look["config"].as<std::string>();
  if (!resume.empty()) resolve_resume(resume, options);

  std::vector<std::pair<std::string, nlohmann::json>> files;
  if (!config.empty()) files.emplace_back(config, read_json("--config", config));
  if (!resume.empty())
    files.emplace_back(options.resume_config, read_json("--resume", options.resume_config));
  std::string train_data = first_look["train-data"].as<std::string>();
  for (const auto& [path, json] : files)
    if (train_data.empty() && json.contains("train-data") && json["train-data"].is_string())
      train_data = json["train-data"].get<std::string>();

  const po::options_description list = option_list(train_data.empty() ? kEmoji : kOwnData);
  po::variables_map values = parse_options(argc, argv, list, usage());
  for (const auto& [path, json] : files) store_json(json, path, list, values);

  const auto text = [&](const char* name) { return values[name].as<std::string>(); };
  options.model = text("model");
  options.pretrained = text("pretrained");
  options.model_given = !values["model"].defaulted();
  options.force_quick_gelu = values["force-quick-gelu"].as<bool>();
  options.vocabulary = VocabularyChoice(values);
  options.train_data = text("train-data");
  options.val_data = text("val-data");
  options.csv_image_key = text("csv-img-key");
  options.csv_caption_key = text("csv-caption-key");
  options.csv_separator = text("csv-separator");
  options.font = text("font");
  options.shuffle = !values["no-shuffle"].as<bool>();
  options.augment = one_of<bool>(values, "augment", {{"crop", true}, {"none", false}});
  options.siglip = values["siglip"].as<bool>();
  options.siglip_bias_init = within(-1000, 1000, values, "siglip-bias-init");
  options.patch_dropout = within(0, 0.999999, values, "patch-dropout");
  options.locked = {values["lock-image"].as<bool>(), values["lock-text"].as<bool>()};
  options.feature_cache = text("feature-cache");
  check_locks(options);
  options.workers = at_least(0, values, "workers", 1024);
  options.batch_size = at_least(1, values, "batch-size");
  options.accum_freq = at_least(1, values, "accum-freq", 1 << 20);
  options.activations =
      values["grad-checkpointing"].as<bool>() ? Activations::kRecomputed : Activations::kKept;
  options.precision = text("precision");
  const bool by_epochs = values["steps"].defaulted() && !values["epochs"].defaulted();
  options.steps = by_epochs ? -1 : at_least(-1, values, "steps");
  options.epochs = at_least(0, values, "epochs");
  options.lr = {
      .lr = within(0, 10, values, "lr"),
      .warmup_steps = at_least(-1, values, "warmup"),
      .total_steps = 0,
      .schedule = one_of<LearningRate::Schedule>(values, "lr-scheduler",
                                                 {{"cosine", LearningRate::Schedule::kCosine},
                                                  {"const", LearningRate::Schedule::kConstant}})};
  options.optimizer = {.beta1 = within(0, 0.999999, values, "beta1"),
                       .beta2 = within(0, 0.999999, values, "beta2"),
                       .eps = within(0, 1, values, "eps"),
                       .weight_decay = within(0, 10, values, "wd"),
                       .max_norm = within(0, 1e9, values, "grad-clip-norm")};
  options.seed = static_cast<uint64_t>(at_least(0, values, "seed"));
  options.device = text("device");
  options.log_every = at_least(1, values, "log-every-n-steps");
  options.profile = values["profile"].as<bool>();
  options.save_epochs = at_least(0, values, "save-frequency");
  options.save_steps = at_least(0, values, "save-steps");
  options.delete_previous = values["delete-previous-checkpoint"].as<bool>();
  options.json = to_json(values);
  options.json["steps"] = options.steps;
  // A default in a --config file would be taken for a choice.
  if (!options.pretrained.empty() && !options.model_given) options.json.erase("model");
  if (options.run_folder.empty()) {
    if (options.name.empty())
      options.name = unused_run_name(options.logs, fs::path(options.model).stem().string());
    options.run_folder = (fs::path(options.logs) / options.name).string();
  }
  return options;
}

}  // namespace clip
