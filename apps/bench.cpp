// How fast this machine trains and runs a model: seconds, samples, and the share of its peak.
#include <sys/resource.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/common/bench_ops.h"
#include "apps/common/bench_runs.h"
#include "apps/common/bench_scale.h"
#include "apps/common/option_values.h"
#include "apps/common/profile.h"
#include "apps/common/ranks.h"
#include "apps/common/training_run.h"
#include "models/flop.h"

namespace clip {
namespace {

namespace po = boost::program_options;
using nlohmann::json;

constexpr const char* kUsage =
    "Times a model on made-up data of a fixed seed, on the ranks that mpirun started.\n"
    "\n"
    "FLOP are those a step needs: captions without padding, the last block of each tower at one\n"
    "row; what is recomputed never counts. MFU is their share of the peak: of dense BF16 products\n"
    "as known for A100, H100 and H200, of large products as measured here on a CPU;\n"
    "--peak-tflops names another.\n"
    "\n"
    "  ./apps/bench --step ViT-B-32 --batch-size 256 --text-length 20 --device cuda --json\n"
    "  mpirun -np 8 ./apps/bench --step ViT-B-32 --batch-size 256 --device cuda\n"
    "  ./apps/bench --infer ViT-L-14 --batch-size 32\n"
    "  ./apps/bench --ops\n"
    "  ./apps/bench --scale ViT-L-14 --batch-size 256 --precision bf16 --tflops 300 --ranks 8,64\n";

po::options_description option_list() {
  const auto number = [](int64_t value) { return po::value<int64_t>()->default_value(value); };
  const auto text = [](const char* value) {
    return po::value<std::string>()->default_value(value);
  };
  po::options_description options("Options");
  // clang-format off
  options.add_options()
    ("help", "print this and exit")
    ("step", text(""), "MODEL: time whole training steps, with the copy of the batch to the device")
    ("infer", text(""), "MODEL: time its towers, and one picture from host to feature")
    ("ops", po::value<std::string>()->implicit_value("")->value_name("[=NAME]"),
     "time every op, or those whose names begin so, forward and backward, at the shapes of a training step")
    ("scale", text(""), "MODEL: seconds and bytes of a step on many ranks, computed from its shapes")
    ("batch-size", number(32), "pairs of a step on each rank, with --scale of a micro-batch; pictures and captions at once")
    ("text-length", number(20), "tokens of every caption, start and end included")
    ("steps", number(10), "runs that are timed; the median counts")
    ("warmup", number(3), "runs before them")
    ("peak-tflops", po::value<double>()->default_value(0), "TFLOP/s that are 100 % MFU; 0: by the GPU's name, measured on a CPU")
    ("profile", po::bool_switch(), "with --step: also where the time goes, by op. Measured in steps of their own, which "
                                   "waiting for the device after each op slows on a GPU")
    ("json", po::bool_switch(), "print one JSON object as the last line");
  // clang-format on
  add_device_options(options);
  return options.add(scale_option_list());
}

enum class Bench { kStep, kInfer, kOps, kScale };

struct BenchOptions {
  std::string model;  ///< of kOps what the names of the ops begin with
  Bench what = Bench::kStep;
  int64_t batch_size = 0, text_length = 0, steps = 0, warmup = 0;
  double peak = 0;  ///< FLOP/s; 0: by the device's name, or measured
  bool profile = false, as_json = false;
};

BenchOptions chosen_options(const po::variables_map& values) {
  constexpr int64_t kMost = 1'000'000;
  BenchOptions options;
  int64_t asked = 0;
  for (const auto& [name, what] : {std::pair{"step", Bench::kStep},
                                   {"infer", Bench::kInfer},
                                   {"ops", Bench::kOps},
                                   {"scale", Bench::kScale}}) {
    if (values.count(name) == 0 || (what != Bench::kOps && values[name].as<std::string>().empty()))
      continue;
    options.model = values[name].as<std::string>();
    options.what = what;
    ++asked;
  }
  if (asked > 1)
    throw UsageError("only one of --step, --infer, --ops and --scale can be asked for");
  if (asked == 0)
    throw UsageError("one of --step MODEL, --infer MODEL, --ops and --scale MODEL is needed");
  options.batch_size = at_least(1, values, "batch-size", kMost);
  options.text_length = at_least(2, values, "text-length", kMost);
  options.steps = at_least(1, values, "steps", kMost);
  options.warmup = at_least(0, values, "warmup", kMost);
  options.peak = 1e12 * within(0, 1e9, values, "peak-tflops");
  options.profile = values["profile"].as<bool>();
  if (options.profile && options.what != Bench::kStep)
    throw UsageError("--profile goes with --step");
  options.as_json = values["json"].as<bool>();
  return options;
}

/// Needed FLOP per second, and their share of the peak where that is known.
void report_flop(double flop_per_s, double peak, json& result) {
  say("  %.4g TFLOP/s", flop_per_s / 1e12);
  result["tflop_per_s"] = flop_per_s / 1e12;
  result["mfu"] = nullptr;
  if (peak > 0) {
    say("  MFU %.1f %% of %.4g TFLOP/s, %.2f times the floor", 100 * flop_per_s / peak, peak / 1e12,
        peak / flop_per_s);
    result["mfu"] = flop_per_s / peak;
    result["peak_tflop_per_s"] = peak / 1e12;
  }
  say("\n");
}

/// Where a step's time goes, by op and by kind of op, and what the step takes beyond that without
/// waits.
void report_profile(std::vector<ProfileRow> rows, double step, json& result) {
  std::map<std::string, double> seconds;
  double total = 0;
  for (const ProfileRow& row : rows) {
    seconds[row.kind] += row.seconds;
    total += row.seconds;
    result["profile_rows"].push_back({{"name", row.name},
                                      {"calls", row.calls},
                                      {"seconds", row.seconds},
                                      {"flop", row.flop},
                                      {"bytes", row.bytes}});
  }
  if (step > total) {
    seconds["idle"] = step - total;
    rows.push_back({.name = "idle", .kind = "idle", .seconds = step - total});
  }
  total = std::max(total, step);
  print_profile(std::move(rows));
  std::vector<std::pair<std::string, double>> sorted(seconds.begin(), seconds.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  say("\nsplit     ");
  for (const auto& [kind, time] : sorted) say("  %s %.1f %%", kind.c_str(), 100 * time / total);
  say("\n");
  result["split_s"] = seconds;
}

/// Times steps and tells how fast they were; returns the FLOP/s of all ranks.
/// comm    between the devices of the ranks, each with a batch of its own
double bench_step(const BenchOptions& options, ClipModel& model, const HostBatch& batch,
                  Communicator& comm, json& result) {
  const ClipConfig& config = model.clip.config;
  Backend& backend = model.clip.logit_scale.backend();
  AdamW optimizer(model.parameters, {});
  BatchUploader upload(backend, config.vision.image_size);
  const Timing step = time_runs(backend, options.warmup, options.steps, [&] {
    train_step(model, optimizer, upload(batch, 1), 1e-5, comm);
  });
  const auto ranks = static_cast<double>(comm.size());
  const double pairs = static_cast<double>(options.batch_size) * ranks;
  const double needed = needed_flop(config, options.text_length);
  say("step        %.4g s, median of %lld after %lld, %.4g to %.4g s; %.4g GFLOP needed for a "
      "pair\n",
      step.median, static_cast<long long>(options.steps), static_cast<long long>(options.warmup),
      step.least, step.most, needed / 1e9);
  say("speed       %.5g pairs/s", pairs / step.median);
  result.update({{"step_s", step.median},
                 {"step_s_spread", {step.least, step.most}},
                 {"pairs_per_s", pairs / step.median},
                 {"needed_gflop_per_pair", needed / 1e9}});
  const double flop_per_s = pairs * needed / step.median;
  report_flop(flop_per_s, options.peak * ranks, result);
  if (!options.profile) return flop_per_s;
  Profile profile(backend);
  for (int64_t i = 0; i <= options.steps; ++i) {  // the first is not counted
    const auto on_device = upload(batch, 1);
    tell_observer("copy");
    train_step(model, optimizer, on_device, 1e-5, comm);
    profile.end_step();
  }
  report_profile(profile.rows(), step.median, result);
  return flop_per_s;
}

void bench_infer(const BenchOptions& options, const ClipModel& model, const HostBatch& batch,
                 json& result) {
  const Clip& clip = model.clip;
  const ConstantWeights constant(model.parameters);
  Backend& backend = clip.logit_scale.backend();
  const int64_t size = clip.config.vision.image_size;
  const Batch on_device = to_device(batch, size, backend)[0];
  const TowerFlop needed = needed_forward_flop(clip.config, options.text_length);
  const auto tower = [&](const char* title, const char* name, double flop,
                         const std::function<Variable()>& encode) {
    const Timing timing =
        time_runs(backend, options.warmup, options.steps, [&] { l2_normalize(encode()); });
    const double speed = static_cast<double>(options.batch_size) / timing.median;
    say("%s%.5g/s, %.4g s for a batch, %.4g to %.4g s", title, speed, timing.median, timing.least,
        timing.most);
    json rates;
    report_flop(speed * flop, options.peak, rates);
    result[concat(name, "_per_s")] = speed;
    result[concat(name, "_batch_s")] = timing.median;
    result[concat(name, "_mfu")] = rates["mfu"];
  };
  tower("pictures    ", "images", needed.image,
        [&] { return clip.encode_image(on_device.images); });
  tower("captions    ", "texts", needed.text, [&] { return clip.encode_text(on_device.tokens); });
  const std::vector<uint8_t> pixels(batch.images.begin(), batch.images.begin() + size * size * 3);
  const Timing one = time_runs(backend, options.warmup, options.steps, [&] {
    const Tensor picture = Tensor::from<uint8_t>(backend, {1, size, size, 3}, pixels);
    l2_normalize(clip.encode_image(picture)).value().to_vector<float>();
  });
  say("one picture %.4g ms, median; %.4g to %.4g ms\n", 1e3 * one.median, 1e3 * one.least,
      1e3 * one.most);
  result["image_latency_s"] = one.median;
}

/// throws UsageError if the captions asked for do not fit into it
ClipConfig chosen_model(const BenchOptions& options) {
  ClipConfig config = preset_or_file(options.model);
  if (options.what == Bench::kScale) check_countable(config);
  if (options.text_length > config.text.context_length)
    throw UsageError(concat("--text-length must be at most ", config.text.context_length,
                            ", the context of ", options.model, ", got ", options.text_length));
  return config;
}

bool needs_device(const BenchOptions& options, const ScaleOptions& scale) {
  return options.what != Bench::kScale || scale.machines.flop_per_s == 0;
}

/// The most that this process ever held.
int64_t peak_memory_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{1024} * usage.ru_maxrss;
}

int64_t parameter_count(const ClipConfig& config) {
  ParameterList list;
  Clip(config).collect(list);
  return list.count();
}

/// Runs a model, or with --scale only computes what it would take if its speed is given.
void bench_model(BenchOptions options, ScaleOptions scale, const ClipConfig& config,
                 Backend& backend, DType dtype, Ranks& ranks, json& result) {
  Communicator& comm = ranks.comm();
  std::cout << "model       " << options.model << ", " << precision_name(dtype) << ", "
            << parameter_count(config) << " parameters\nbatch       " << options.batch_size
            << " pairs, captions of " << options.text_length << " tokens\n";
  result.update({{"model", options.model},
                 {"batch_size", options.batch_size},
                 {"text_length", options.text_length}});
  if (needs_device(options, scale)) {
    result.update({{"profile", options.profile}, {"ranks", comm.size()}});
    ranks.meet(result);
    result["device"] = concat(backend.device());
    const auto gpu_comm = join_gpus(comm, backend);
    if (options.peak == 0) options.peak = known_peak(backend.name());
    if (options.peak == 0 && backend.device().kind == Device::Kind::kCpu)
      options.peak = measure_peak(backend, dtype).flop_per_s;
    ClipModel model(config, backend, dtype);
    initialize(model.parameters, config, 1);
    if (comm.size() > 1) std::cout << "ranks       " << describe_ranks(comm) << '\n';
    const HostBatch batch = made_up_batch(config, options.batch_size, options.text_length);
    if (options.what == Bench::kInfer)
      bench_infer(options, model, batch, result);
    else
      scale.machines.flop_per_s =
          bench_step(options, model, batch, gpu_comm != nullptr ? *gpu_comm : comm, result);
    result["peak_memory_bytes"] = peak_memory_bytes();
  }
  if (options.what == Bench::kScale)
    report_scale(
        config,
        {.batch_size = options.batch_size, .text_length = options.text_length, .precision = dtype},
        scale, result);
}

void bench(int argc, const char* const* argv, Ranks& ranks) {
  const auto values = parse_options(argc, argv, option_list(), kUsage);
  const BenchOptions options = chosen_options(values);
  Communicator& comm = ranks.comm();
  if (options.what != Bench::kStep && comm.size() > 1)
    throw UsageError(
        concat("--infer, --ops and --scale are for one process, got ", comm.size(), " ranks"));
  const ScaleOptions scale = chosen_scale(values);
  const po::options_description scale_only = scale_option_list();
  for (const auto& option : scale_only.options())
    if (options.what != Bench::kScale && !values[option->long_name()].defaulted())
      throw UsageError(concat("--", option->long_name(), " goes with --scale"));
  std::optional<ClipConfig> config;
  if (options.what != Bench::kOps) config = chosen_model(options);
  const std::string chosen_precision = values["precision"].as<std::string>();
  // What is computed on paper needs no device, but to ask what it is fast in.
  const bool on_paper = !needs_device(options, scale) && chosen_precision != "auto";
  const ChosenDevice device =
      choose_device(on_paper ? "cpu" : values["device"].as<std::string>(), comm.local_rank());
  if (ranks.first()) device.print_note();
  Backend& backend = *device.backend;
  const DType dtype = choose_precision(chosen_precision, backend);
  json result = {{"precision", precision_name(dtype)}};
  if (needs_device(options, scale)) {
    std::cout << "device      " << backend.device() << ", " << backend.name() << '\n';
    result.update(
        {{"device_name", backend.name()}, {"steps", options.steps}, {"warmup", options.warmup}});
  }
  if (options.what == Bench::kOps)
    bench_ops(options.model, backend, dtype, options.warmup, options.steps, result);
  else
    bench_model(options, scale, *config, backend, dtype, ranks, result);
  if (options.as_json) std::cout << result.dump() << '\n';
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  return clip::run_ranks("bench", [&](clip::Ranks& ranks) { clip::bench(argc, argv, ranks); });
}
