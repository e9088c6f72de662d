#include "apps/common/training_run.h"

#include <algorithm>
#include <iostream>

#include "apps/common/model_options.h"
#include "apps/common/report.h"
#include "engine/random.h"
#include "models/patch_dropout.h"

namespace clip {

namespace {

ModelSource source_of(const TrainOptions& options) {
  ModelSource source;
  source.checkpoint = options.resume_checkpoint;
  if (source.checkpoint.empty() && !options.pretrained.empty())
    source.checkpoint = find_checkpoint(options.pretrained);
  if (!source.checkpoint.empty()) {
    const bool resumes = !options.resume_checkpoint.empty();
    const WeightChoice choice{options.model_given ? options.model : "", options.force_quick_gelu};
    source.config = load_config(source.checkpoint, resumes ? WeightChoice() : choice);
    source.tokenizer = std::make_shared<Tokenizer>(load_tokenizer(
        source.checkpoint, resumes ? VocabularyChoice() : options.vocabulary, source.config));
    if (options.siglip && source.config.loss() != LossKind::kSigmoid)
      throw UsageError(concat("--siglip: ", source.checkpoint,
                              " was trained with the softmax loss: it has no logit_bias"));
    return source;
  }
  source.config = preset_or_file(options.model);
  if (options.force_quick_gelu) source.config.gelu = Gelu::kQuick;
  if (options.siglip) source.config = with_sigmoid_loss(source.config, options.siglip_bias_init);
  if (options.vocabulary.given()) {
    source.tokenizer = std::make_shared<Tokenizer>(options.vocabulary.load());
    source.config.text.vocab_size = source.tokenizer->vocab_size();
  }
  return source;
}

}  // namespace

ModelSource choose_model(const TrainOptions& options) {
  ModelSource source = source_of(options);
  if (source.config.vision.is_resnet() && options.patch_dropout > 0)
    throw UsageError(concat("--patch-dropout must be 0 with a ResNet, which has no patches, got ",
                            options.patch_dropout));
  return source;
}

TrainingData open_training_data(const TrainOptions& options, const ClipConfig& config) {
  TrainingData data;
  const CsvOptions csv{options.csv_image_key, options.csv_caption_key, options.csv_separator};
  if (!options.val_data.empty())
    data.validation = open_dataset(options.val_data, csv, Split::kTest);
  if (!options.train_data.empty()) {
    data.pairs = open_dataset(options.train_data, csv);
    return data;
  }
  EmojiScenes::Options scenes;
  scenes.image_size = config.vision.image_size;
  scenes.seed = options.seed;
  scenes.font = options.font;
  data.scenes = std::make_shared<EmojiScenes>(scenes);
  data.pairs = data.scenes;
  return data;
}

void complete_vocabulary(ModelSource& source, const Dataset& pairs) {
  if (source.tokenizer != nullptr) return;
  source.tokenizer = std::make_shared<Tokenizer>(
      Tokenizer::learn(pairs.captions(), source.config.text.vocab_size));
  source.config.text.vocab_size = source.tokenizer->vocab_size();
}

TrainingState start_state(const TrainOptions& options, const ModelSource& source, ClipModel& model,
                          AdamW& optimizer, const Ranks& ranks) {
  TrainingState state;
  state.seed = options.seed;
  if (!options.resume_checkpoint.empty()) {
    load_parameters(options.resume_checkpoint, model.parameters);
    state = load_training_state(options.resume_checkpoint, model.parameters);
    optimizer.set_steps_done(state.optimizer_steps);
  } else if (!source.checkpoint.empty()) {
    const auto not_finite = load_parameters(source.checkpoint, model.parameters);
    if (ranks.first()) warn_not_finite(not_finite, source.checkpoint);
  } else {
    initialize(model.parameters, source.config, options.seed);
  }
  state.options = options.json.dump();
  return state;
}

LoaderOptions loader_options(const TrainOptions& options, const ClipConfig& config,
                             const Communicator& comm) {
  return {.batch_size = options.batch_size * options.accum_freq,
          .image_size = config.vision.image_size,
          .preprocess = config.vision.preprocess,
          .context_length = config.text.context_length,
          .seed = options.seed,
          .workers = options.workers,
          .shuffle = options.shuffle,
          .augment = options.augment,
          .rank = comm.rank(),
          .ranks = comm.size()};
}

int64_t plan_steps(TrainOptions& options, int64_t steps_per_epoch, const TrainingState& state) {
  const int64_t total = options.steps >= 0 ? options.steps : options.epochs * steps_per_epoch;
  CLIP_CHECK(state.step <= total, "the checkpoint ", options.resume_checkpoint, " is at step ",
             state.step, ", beyond the run's ", total, " steps");
  options.lr.total_steps = total;
  if (options.lr.warmup_steps < 0) options.lr.warmup_steps = std::min<int64_t>(2000, total / 20);
  return total;
}

nlohmann::json facts_of_run(const TrainOptions& options, const ChosenDevice& device,
                            const ModelSource& source, const TrainingData& data,
                            const TrainingState& state) {
  nlohmann::json facts;
  for (const auto& [name, value] : options.json.items())
    if (name != "device" && name != "workers") facts["--" + name] = value;
  const bool gpu = device.backend->device().kind == Device::Kind::kCuda;
  facts["the kind of device"] = gpu ? "GPU" : "CPU";
  facts["the run's folder"] = options.run_folder;
  facts["the checkpoint to start from"] = source.checkpoint;
  facts["the step to go on from"] = state.step;
  facts["the data set"] = data.pairs->describe();
  if (data.validation != nullptr) facts["the data set of --val-data"] = data.validation->describe();
  facts["the model"] = nlohmann::json::parse(to_json(source.config));
  facts["the vocabulary's hash"] = random_stream(source.tokenizer->to_json());
  return facts;
}

void announce_run(const TrainOptions& options, const ChosenDevice& device,
                  const ModelSource& source, const TrainingData& data, const ClipModel& model,
                  const TrainingState& state, const Communicator& comm) {
  const Backend& backend = *device.backend;
  const int64_t pairs = options.pairs_per_step(comm.size());
  std::cout << "data        " << data.pairs->describe() << "\nmodel       "
            << (source.checkpoint.empty() ? options.model : source.checkpoint) << ", "
            << model.parameters.count() << " parameters, vocabulary "
            << source.tokenizer->vocab_size() << ", on " << backend.device() << " in "
            << precision_name(choose_precision(options.precision, backend))
            << (device.note.empty() ? "" : "\ndevice      " + device.note) << "\nrun         "
            << options.run_folder << ", " << options.lr.total_steps - state.step << " steps of "
            << pairs << " pairs\n";
  if (comm.size() > 1) std::cout << "ranks       " << describe_ranks(comm) << '\n';
  if (state.global_batch != 0 && state.global_batch != pairs)
    std::cout << "a step had " << state.global_batch << " pairs before step " << state.step
              << ": from here on the batches are others than without the change\n";
  if (source.config.vision.is_resnet() && !options.locked.image && options.accum_freq > 1)
    std::cout << "batch norm  each micro-batch of " << options.batch_size * comm.size()
              << " pairs is normalised by itself: a larger --batch-size is not the same model\n";
}

MicroBatches::MicroBatches(const ClipModel& model, const TrainOptions& options,
                           const std::string& data)
    : parts_(options.accum_freq),
      patches_(model.clip.config.vision.patches()),
      patch_dropout_(options.patch_dropout),
      seed_(options.seed),
      upload_(model.clip.logit_scale.backend(), model.clip.config.vision.image_size) {
  if (!options.locked.image && !options.locked.text) return;
  const std::string folder =
      options.feature_cache.empty() ? options.run_folder + "/features" : options.feature_cache;
  known_.emplace(model, folder, data, !options.augment);
}

std::vector<Batch> MicroBatches::operator()(const HostBatch& host) {
  std::vector<Batch> parts = upload_(host, parts_);
  if (patch_dropout_ > 0) drop_patches(parts, patches_, patch_dropout_, seed_, host.first_position);
  if (known_) known_->fill(parts, host);
  tell_observer("copy");
  return parts;
}

std::vector<std::string> MicroBatches::take_warnings() {
  return known_ ? known_->take_warnings() : std::vector<std::string>();
}

Checkpoints::Checkpoints(const RunFolder& run, const TrainOptions& options,
                         const ModelSource& source, ClipModel& model, const AdamW& optimizer,
                         int64_t first_step)
    : run_(run),
      source_(source),
      model_(model),
      optimizer_(optimizer),
      delete_previous_(options.delete_previous) {
  if (options.same_run && !options.resume_checkpoint.empty()) newest_ = run.checkpoint(first_step);
}

void Checkpoints::save(TrainingState& state) {
  const std::string folder = run_.checkpoint(state.step);
  if (folder == newest_ || !run_.writes()) return;
  state.optimizer_steps = optimizer_.steps_done();
  save_checkpoint(folder, source_.config, model_.parameters, *source_.tokenizer, &state);
  if (delete_previous_ && !newest_.empty()) remove_folder(newest_);
  newest_ = folder;
  renew_report(run_);
}

void renew_report(const RunFolder& run) {
  if (!run.writes()) return;
  try {
    write_report(run.path());
  } catch (const Error& error) {
    std::cerr << concat("train: ", one_line(error.what()), '\n');
  }
}

std::unique_ptr<Communicator> join_gpus(Communicator& ranks, Backend& backend) {
  if (backend.device().kind == Device::Kind::kCpu) return nullptr;
  return make_gpu_communicator(ranks, backend);
}

void share_parameters(ParameterList& parameters, Communicator& comm) {
  for (Tensor* flat : {&parameters.values(), &parameters.first_moments(),
                       &parameters.second_moments(), &parameters.buffer_values()})
    if (flat->numel() > 0) comm.broadcast(*flat, 0);
  comm.wait();
  parameters.round_values();
}

}  // namespace clip
