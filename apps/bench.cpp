// How fast this machine trains and runs a model: seconds, samples, and the share of its peak.
#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/common/bench_runs.h"
#include "apps/common/bench_scale.h"
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
    "FLOP are those a step needs: captions without padding, the last block of each tower at one "
    "row;\n"
    "what is recomputed never counts. MFU is their share of the peak of dense BF16 products, known "
    "for\n"
    "A100, H100 and H200; --peak-tflops names another.\n"
    "\n"
    "  ./apps/bench --step ViT-B-32 --batch-size 256 --text-length 20 --device cuda --json\n"
    "  mpirun -np 8 ./apps/bench --step ViT-B-32 --batch-size 256 --device cuda\n"
    "  ./apps/bench --infer ViT-L-14 --batch-size 32\n"
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
    ("scale", text(""), "MODEL: seconds and bytes of a step on many ranks, computed from its shapes")
    ("batch-size", number(32), "pairs of a step on each rank, with --scale of a micro-batch; pictures and captions at once")
    ("text-length", number(20), "tokens of every caption, start and end included")
    ("precision", text("fp32"), "fp32, bf16, or auto: bf16 where the device has instructions for it")
    ("device", text("auto"), "auto, cpu or cuda[:i]")
    ("steps", number(10), "runs that are timed; the median counts")
    ("warmup", number(3), "runs before them")
    ("peak-tflops", po::value<double>()->default_value(0), "TFLOP/s that are 100 % MFU; 0: by the device's name")
    ("profile", po::bool_switch(), "with --step: also where the time goes, by kind of op. Measured in steps of their "
                                   "own, which waiting for the device after each op slows")
    ("json", po::bool_switch(), "print one JSON object as the last line");
  // clang-format on
  return options.add(scale_option_list());
}

enum class Bench { kStep, kInfer, kScale };

struct BenchOptions {
  std::string model;
  Bench what = Bench::kStep;
  int64_t batch_size = 0, text_length = 0, steps = 0, warmup = 0;
  double peak = 0;  ///< FLOP/s; 0: by the device's name
  bool profile = false, as_json = false;
};

BenchOptions chosen_options(const po::variables_map& values) {
  const auto number = [&](const char* name, int64_t least) {
    const auto value = values[name].as<int64_t>();
    if (value < least || value > 1'000'000)
      throw UsageError(concat("--", name, " must be from ", least, " to 1000000, got ", value));
    return value;
  };
  BenchOptions options;
  for (const auto& [name, what] :
       {std::pair{"step", Bench::kStep}, {"infer", Bench::kInfer}, {"scale", Bench::kScale}}) {
    const auto& model = values[name].as<std::string>();
    if (model.empty()) continue;
    if (!options.model.empty())
      throw UsageError("only one of --step, --infer and --scale can be asked for");
    options.model = model;
    options.what = what;
  }
  if (options.model.empty())
    throw UsageError("one of --step MODEL, --infer MODEL and --scale MODEL is needed");
  options.batch_size = number("batch-size", 1);
  options.text_length = number("text-length", 2);
  options.steps = number("steps", 1);
  options.warmup = number("warmup", 0);
  options.peak = values["peak-tflops"].as<double>() * 1e12;
  if (!(options.peak >= 0))
    throw UsageError(concat("--peak-tflops must be at least 0, got ", options.peak / 1e12));
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
    say("  MFU %.1f %% of %.4g TFLOP/s", 100 * flop_per_s / peak, peak / 1e12);
    result["mfu"] = flop_per_s / peak;
    result["peak_tflop_per_s"] = peak / 1e12;
  }
  say("\n");
}

/// Seconds of a step by kind, measured with waits, and what the step takes beyond them without.
void report_split(std::map<std::string, double> seconds, double step, json& result) {
  double total = 0;
  for (const auto& [kind, time] : seconds) total += time;
  if (step > total) seconds["idle"] = step - total;
  total = std::max(total, step);
  std::vector<std::pair<std::string, double>> sorted(seconds.begin(), seconds.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  say("split     ");
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
  for (int64_t i = 0; i < options.steps; ++i) {
    const auto on_device = upload(batch, 1);
    profile.mark("copy");
    train_step(model, optimizer, on_device, 1e-5, comm);
    profile.mark("optimizer");
  }
  auto split = profile.take();
  for (auto& [kind, seconds] : split) seconds /= static_cast<double>(options.steps);
  report_split(std::move(split), step.median, result);
  return flop_per_s;
}

void bench_infer(const BenchOptions& options, const ClipModel& model, const HostBatch& batch,
                 json& result) {
  const Clip& clip = model.clip;
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

int64_t parameter_count(const ClipConfig& config) {
  ParameterList list;
  Clip(config).collect(list);
  return list.count();
}

void bench(int argc, const char* const* argv, Ranks& ranks) {
  const auto values = parse_options(argc, argv, option_list(), kUsage);
  BenchOptions options = chosen_options(values);
  Communicator& comm = ranks.comm();
  if (options.what != Bench::kStep && comm.size() > 1)
    throw UsageError(
        concat("--infer and --scale are for one process, got ", comm.size(), " ranks"));
  ScaleOptions scale = chosen_scale(values);
  const po::options_description scale_only = scale_option_list();
  for (const auto& option : scale_only.options())
    if (options.what != Bench::kScale && !values[option->long_name()].defaulted())
      throw UsageError(concat("--", option->long_name(), " goes with --scale"));
  const ClipConfig config = preset_or_file(options.model);
  if (options.what == Bench::kScale) check_countable(config);
  if (options.text_length > config.text.context_length)
    throw UsageError(concat("--text-length must be at most ", config.text.context_length,
                            ", the context of ", options.model, ", got ", options.text_length));
  const ChosenDevice device = choose_device(values["device"].as<std::string>(), comm.local_rank());
  if (!device.note.empty() && ranks.first()) std::cerr << "device " << device.note << '\n';
  Backend& backend = *device.backend;
  if (options.peak == 0) options.peak = known_peak(backend.name());

  const DType dtype = choose_precision(values["precision"].as<std::string>(), backend);
  const std::string precision = precision_name(dtype);
  const bool measured = options.what != Bench::kScale || scale.machines.flop_per_s == 0;
  std::cout << "model       " << options.model << ", " << precision << ", "
            << parameter_count(config) << " parameters\nbatch       " << options.batch_size
            << " pairs, captions of " << options.text_length << " tokens\n";
  json result = {{"model", options.model},
                 {"precision", precision},
                 {"batch_size", options.batch_size},
                 {"text_length", options.text_length}};
  if (measured) {
    result.update({{"device_name", backend.name()},
                   {"steps", options.steps},
                   {"warmup", options.warmup},
                   {"profile", options.profile},
                   {"ranks", comm.size()}});
    ranks.meet(result);
    result["device"] = concat(backend.device());
    const auto gpu_comm = join_gpus(comm, backend);
    ClipModel model(config, backend, dtype);
    initialize(model.parameters, config, 1);
    std::cout << "device      " << backend.device() << ", " << backend.name() << '\n';
    if (comm.size() > 1) std::cout << "ranks       " << describe_ranks(comm) << '\n';
    const HostBatch batch = made_up_batch(config, options.batch_size, options.text_length);
    if (options.what == Bench::kInfer)
      bench_infer(options, model, batch, result);
    else
      scale.machines.flop_per_s =
          bench_step(options, model, batch, gpu_comm != nullptr ? *gpu_comm : comm, result);
  }
  if (options.what == Bench::kScale)
    report_scale(
        config,
        {.batch_size = options.batch_size, .text_length = options.text_length, .precision = dtype},
        scale, result);
  if (options.as_json) std::cout << result.dump() << '\n';
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  return clip::run_ranks("bench", [&](clip::Ranks& ranks) { clip::bench(argc, argv, ranks); });
}
