// Contrastive pretraining: next batch, step, log, checkpoint.
#include <iostream>
#include <optional>

#include "apps/common/model_options.h"
#include "apps/common/ranks.h"
#include "apps/common/training_run.h"
#include "models/checkpoint.h"
#include "models/feature_cache.h"
#include "models/patch_dropout.h"

namespace clip {
namespace {

void train(int argc, const char* const* argv, Ranks& ranks) {
  TrainOptions options = parse_train_options(argc, argv);
  Communicator& comm = ranks.comm();
  RunFolder run(options.run_folder, options.same_run, ranks.first());
  const ChosenDevice device = choose_device(options.device, comm.local_rank());
  const DType precision = choose_precision(options.precision, *device.backend);

  ModelSource source = choose_model(options);
  const TrainingData data = open_training_data(options, source.config);
  complete_vocabulary(source, *data.pairs);
  ClipModel model(source.config, *device.backend, precision, options.locked);
  model.clip.towers.activations = options.activations;
  AdamW optimizer(model.parameters, options.optimizer);
  TrainingState state{.seed = options.seed, .options = options.json.dump()};
  if (!options.resume_checkpoint.empty()) {
    load_parameters(options.resume_checkpoint, model.parameters);
    state = load_training_state(options.resume_checkpoint, model.parameters);
    state.options = options.json.dump();
    optimizer.set_steps_done(state.optimizer_steps);
  } else if (!source.checkpoint.empty()) {
    const auto not_finite = load_parameters(source.checkpoint, model.parameters);
    if (ranks.first()) warn_not_finite(not_finite, source.checkpoint);
  } else {
    initialize(model.parameters, source.config, options.seed);
  }

  const VisionConfig& vision = source.config.vision;
  DataLoader loader(data.pairs, source.tokenizer,
                    {.batch_size = options.batch_size * options.accum_freq,
                     .image_size = vision.image_size,
                     .preprocess = vision.preprocess,
                     .context_length = source.config.text.context_length,
                     .seed = options.seed,
                     .workers = options.workers,
                     .shuffle = options.shuffle,
                     .augment = options.augment,
                     .rank = comm.rank(),
                     .ranks = comm.size()},
                    state.step);
  const int64_t total =
      options.steps >= 0 ? options.steps : options.epochs * loader.steps_per_epoch();
  options.lr.total_steps = total;
  if (options.lr.warmup_steps < 0) options.lr.warmup_steps = std::min<int64_t>(2000, total / 20);
  CLIP_CHECK(state.step <= total, "the checkpoint ", options.resume_checkpoint, " is at step ",
             state.step, ", beyond the run's ", total, " steps");

  const auto next_batch = [&]() -> std::optional<HostBatch> {
    if (state.step >= total) return std::nullopt;
    return loader.next();
  };
  catch_stop_signals();       // from here on, a run that is stopped leaves a checkpoint
  auto batch = next_batch();  // before the run has a folder: data that cannot be read leave none
  ranks.meet(facts_of_run(options, device, source, data, state));
  const auto gpu_comm = join_gpus(comm, *device.backend);
  Communicator& device_comm = gpu_comm != nullptr ? *gpu_comm : comm;
  share_parameters(model.parameters, device_comm);
  run.open(options.json, state.step);
  const int64_t global_batch = options.batch_size * options.accum_freq * comm.size();
  std::cout << "data        " << data.pairs->describe() << "\nmodel       "
            << (source.checkpoint.empty() ? options.model : source.checkpoint) << ", "
            << model.parameters.count() << " parameters, vocabulary "
            << source.tokenizer->vocab_size() << ", on " << device.backend->device() << " in "
            << precision_name(precision)
            << (device.note.empty() ? "" : "\ndevice      " + device.note) << "\nrun         "
            << run.path() << ", " << total - state.step << " steps of " << global_batch
            << " pairs\n";
  if (comm.size() > 1) std::cout << "ranks       " << describe_ranks(comm) << '\n';
  if (state.global_batch != 0 && state.global_batch != global_batch)
    std::cout << "a step had " << state.global_batch << " pairs before step " << state.step
              << ": from here on the batches are others than without the change\n";
  state.global_batch = global_batch;

  if (vision.is_resnet() && !options.locked.image && options.accum_freq > 1)
    std::cout << "batch norm  each micro-batch of " << options.batch_size * comm.size()
              << " pairs is normalised by itself: a larger --batch-size is not the same model\n";

  const bool goes_on = options.same_run && !options.resume_checkpoint.empty();
  std::string last_saved = goes_on ? run.checkpoint(state.step) : "";
  const auto save = [&] {
    const std::string folder = run.checkpoint(state.step);
    if (folder == last_saved || !ranks.first()) return;
    state.optimizer_steps = optimizer.steps_done();
    save_checkpoint(folder, source.config, model.parameters, *source.tokenizer, &state);
    if (options.delete_previous && !last_saved.empty()) remove_folder(last_saved);
    last_saved = folder;
  };
  std::optional<LockedFeatures> known;
  if (options.locked.image || options.locked.text)
    known.emplace(model,
                  options.feature_cache.empty() ? run.path() + "/features" : options.feature_cache,
                  data.pairs->describe(), !options.augment);
  BatchUploader upload(*device.backend, vision.image_size);
  const auto micro_batches_of = [&](const HostBatch& host) {
    auto parts = upload(host, options.accum_freq);
    if (options.patch_dropout > 0)
      drop_patches(parts, vision.patches(), options.patch_dropout, options.seed,
                   host.first_position);
    if (known) known->fill(parts, host);
    return parts;
  };
  const auto due = [&](int64_t every) { return every > 0 && state.step % every == 0; };

  Progress progress(run, options, source.config.loss(), comm, state.step, total);
  for (; batch && !ranks.stop_requested(); batch = next_batch()) {
    const auto say = [&](const std::string& warning) {
      ranks.first() ? progress.say(warning) : ranks.warn(warning);
    };
    for (const std::string& warning : loader.take_warnings()) say(warning);
    const double lr = options.lr.at(state.step);
    const StepMetrics metrics =
        train_step(model, optimizer, micro_batches_of(*batch), lr, device_comm);
    if (known)
      for (const std::string& warning : known->take_warnings()) say(warning);
    progress.step(++state.step, lr, metrics, *batch, model.clip.logit_scale.value(), optimizer);
    if (due(options.save_steps) || due(options.save_epochs * loader.steps_per_epoch())) save();
  }
  save();
  if (const int64_t broken = ranks.sum(loader.broken_samples()); broken > 0)
    progress.say(concat("another sample took a broken one's place ", broken, " times"));
  if (state.step < total) {
    progress.say(concat("stopped after step ", state.step, "; go on with ./apps/train --resume ",
                        run.path()));
    return;
  }

  if (data.scenes != nullptr && total > 0) {
    report_scenes(evaluate_scenes(model.clip, *source.tokenizer, *data.scenes, &comm), run,
                  state.step);
    if (ranks.first()) std::cout << "\nTry next:\n  " << write_samples(*data.scenes, run) << '\n';
  }
  if (data.validation != nullptr)
    report_retrieval(evaluate_retrieval(model.clip, *source.tokenizer, *data.validation, &comm),
                     run, state.step);
  std::cout << "checkpoint  " << last_saved << '\n';
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  clip::receive_stop_signals();
  return clip::run_ranks("train", [&](clip::Ranks& ranks) { clip::train(argc, argv, ranks); });
}
