// Contrastive pretraining: next batch, step, log, checkpoint.
#include <iostream>
#include <optional>

#include "apps/common/profile.h"
#include "apps/common/ranks.h"
#include "apps/common/training_run.h"

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
  TrainingState state = start_state(options, source, model, optimizer, ranks);
  DataLoader loader(data.pairs, source.tokenizer, loader_options(options, source.config, comm),
                    state.step);
  const int64_t total = plan_steps(options, loader.steps_per_epoch(), state);

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
  announce_run(options, device, source, data, model, state, comm);
  state.global_batch = options.pairs_per_step(comm.size());

  Checkpoints checkpoints(run, options, source, model, optimizer, state.step);
  MicroBatches micro_batches_of(model, options, data.pairs->describe());
  Progress progress(run, options, source.config.loss(), comm, state.step);
  const auto tell = [&](const std::vector<std::string>& warnings) {
    for (const std::string& warning : warnings)
      ranks.first() ? progress.say(warning) : ranks.warn(warning);
  };
  std::optional<Profile> profile;
  if (options.profile) profile.emplace(*device.backend);
  for (; batch && !ranks.stop_requested(); batch = next_batch()) {
    tell_observer("loader");
    tell(loader.take_warnings());
    const double lr = options.lr.at(state.step);
    const StepMetrics metrics =
        train_step(model, optimizer, micro_batches_of(*batch), lr, device_comm);
    tell(micro_batches_of.take_warnings());
    progress.step(++state.step, lr, metrics, *batch, model.clip.logit_scale.value(), optimizer);
    if (options.saves_after(state.step, loader.steps_per_epoch())) checkpoints.save(state);
    tell_observer("log, checkpoint");
    if (profile) profile->end_step();
  }
  if (profile) print_profile(profile->rows());
  profile.reset();  // what follows is no step
  checkpoints.save(state);

  if (const int64_t broken = ranks.sum(loader.broken_samples()); broken > 0)
    progress.say(concat("another sample took a broken one's place ", broken, " times"));
  if (state.step < total) {
    progress.say(concat("stopped after step ", state.step, "; go on with ./apps/train --resume ",
                        run.path()));
    return;
  }
  report_results(model.clip, *source.tokenizer, data, run, state.step, comm);
  std::cout << "checkpoint  " << checkpoints.newest() << '\n';
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  clip::receive_stop_signals();
  return clip::run_ranks("train", [&](clip::Ranks& ranks) { clip::train(argc, argv, ranks); });
}
