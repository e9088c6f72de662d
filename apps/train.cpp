// Contrastive pretraining: next batch, step, log, checkpoint.
#include <iostream>
#include <optional>

#include "apps/common/program.h"
#include "apps/common/training_run.h"
#include "models/checkpoint.h"

namespace clip {
namespace {

void train(int argc, const char* const* argv) {
  TrainOptions options = parse_train_options(argc, argv);
  const ChosenDevice device = choose_device(options.device);
  const auto comm = make_single_communicator();

  ModelSource source = choose_model(options);
  const TrainingData data = open_training_data(options, source.config);
  complete_vocabulary(source, *data.pairs);
  ClipModel model(source.config, *device.backend, options.dtype);
  model.clip.towers.activations = options.activations;
  AdamW optimizer(model.parameters, options.optimizer);
  TrainingState state{.seed = options.seed, .options = options.json.dump()};
  if (!options.resume_checkpoint.empty()) {
    load_parameters(options.resume_checkpoint, model.parameters);
    state = load_training_state(options.resume_checkpoint, model.parameters);
    state.options = options.json.dump();
    optimizer.set_steps_done(state.optimizer_steps);
  } else if (!source.checkpoint.empty()) {
    load_parameters(source.checkpoint, model.parameters);
  } else {
    initialize(model.parameters, source.config, options.seed);
  }

  const VisionConfig& vision = source.config.vision;
  DataLoader loader(data.pairs, source.tokenizer,
                    {.batch_size = options.batch_size * options.accum_freq,
                     .image_size = vision.image_size,
                     .context_length = source.config.text.context_length,
                     .seed = options.seed,
                     .workers = options.workers,
                     .shuffle = options.shuffle,
                     .augment = options.augment},
                    state.step);
  const int64_t total =
      options.steps >= 0 ? options.steps : options.epochs * loader.steps_per_epoch();
  options.lr.total_steps = total;
  if (options.lr.warmup_steps < 0) options.lr.warmup_steps = std::min<int64_t>(2000, total / 20);
  CLIP_CHECK(state.step <= total, "the checkpoint ", options.resume_checkpoint, " is at step ",
             state.step, ", beyond the run's ", total, " steps");

  const auto next_batch = [&]() -> std::optional<HostBatch> {
    if (state.step >= total || stop_requested()) return std::nullopt;
    return loader.next();
  };
  catch_stop_signals();       // from here on, a run that is stopped leaves a checkpoint
  auto batch = next_batch();  // before the run has a folder: data that cannot be read leave none
  const RunFolder run(options.run_folder, options.json, options.same_run, state.step);
  std::cout << "data        " << data.pairs->describe() << "\nmodel       "
            << (source.checkpoint.empty() ? options.model : source.checkpoint) << ", "
            << model.parameters.count() << " parameters, vocabulary "
            << source.tokenizer->vocab_size() << ", on " << device.backend->device()
            << "\nrun         " << run.path() << ", " << total - state.step << " steps of "
            << options.batch_size * options.accum_freq << " pairs\n";

  if (source.config.vision.is_resnet() && options.accum_freq > 1)
    std::cout << "batch norm  each micro-batch of " << options.batch_size
              << " pairs is normalised by itself: a larger --batch-size is not the same model\n";

  const bool goes_on = options.same_run && !options.resume_checkpoint.empty();
  std::string last_saved = goes_on ? run.checkpoint(state.step) : "";
  const auto save = [&] {
    const std::string folder = run.checkpoint(state.step);
    if (folder == last_saved) return;
    state.optimizer_steps = optimizer.steps_done();
    save_checkpoint(folder, source.config, model.parameters, *source.tokenizer, &state);
    if (options.delete_previous && !last_saved.empty()) remove_folder(last_saved);
    last_saved = folder;
  };
  const auto due = [&](int64_t every) { return every > 0 && state.step % every == 0; };

  Progress progress(run, options, state.step, total);
  for (; batch; batch = next_batch()) {
    for (const std::string& warning : loader.take_warnings()) progress.say(warning);
    const double lr = options.lr.at(state.step);
    const StepMetrics metrics = train_step(
        model, optimizer, to_device(*batch, vision.image_size, *device.backend, options.accum_freq),
        lr, *comm);
    progress.step(++state.step, lr, metrics, *batch, model.clip.logit_scale.value().item());
    if (due(options.save_steps) || due(options.save_epochs * loader.steps_per_epoch())) save();
  }
  save();
  if (loader.broken_samples() > 0)
    progress.say(
        concat("another sample took a broken one's place ", loader.broken_samples(), " times"));
  if (state.step < total) {
    progress.say(concat("stopped after step ", state.step, "; go on with ./apps/train --resume ",
                        run.path()));
    return;
  }

  if (data.scenes != nullptr && total > 0) {
    report_scenes(evaluate_scenes(model.clip, *source.tokenizer, *data.scenes), run, state.step);
    std::cout << "\nTry next:\n  " << write_samples(*data.scenes, run) << '\n';
  }
  if (data.validation != nullptr)
    report_retrieval(evaluate_retrieval(model.clip, *source.tokenizer, *data.validation), run,
                     state.step);
  std::cout << "checkpoint  " << last_saved << '\n';
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  return clip::run_program("train", [&] { clip::train(argc, argv); });
}
