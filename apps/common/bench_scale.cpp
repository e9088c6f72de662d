#include "apps/common/bench_scale.h"

#include <charconv>
#include <utility>

#include "apps/common/bench_runs.h"
#include "apps/common/option_values.h"

namespace clip {
namespace {

namespace po = boost::program_options;
using nlohmann::json;

constexpr double kGiB = 1 << 30;

std::vector<int64_t> rank_list(const std::string& text) {
  std::vector<int64_t> ranks;
  const char *at = text.data(), *const end = at + text.size();
  while (true) {
    int64_t value = 0;
    const auto [stop, error] = std::from_chars(at, end, value);
    if (error != std::errc() || value < 1 || value > 1'000'000 || (stop != end && *stop != ','))
      throw UsageError(concat(
          "--ranks must be numbers from 1 to 1000000 with commas between, got '", text, "'"));
    ranks.push_back(value);
    if (stop == end) return ranks;
    at = stop + 1;
  }
}

}  // namespace

po::options_description scale_option_list() {
  const auto number = [](int64_t value) { return po::value<int64_t>()->default_value(value); };
  const auto real = [](double value) { return po::value<double>()->default_value(value); };
  po::options_description options("With --scale");
  // clang-format off
  options.add_options()
    ("ranks", po::value<std::string>()->default_value("8,64,512,4096"), "how many ranks, a row each")
    ("accum-freq", number(1), "micro-batches of a step (GradCache)")
    ("grad-checkpointing", po::bool_switch(), "blocks keep their inputs alone")
    ("tflops", real(0), "TFLOP/s a rank reaches over a step, as --step tells; 0: measured here by --step's way")
    ("loss-tflops", real(0), "TFLOP/s a rank reaches in the loss's F32 products; 0: as --tflops")
    ("local-link-gbytes-per-s", real(360), "10^9 bytes/s from a rank to others of its machine")
    ("link-gbytes-per-s", real(320), "10^9 bytes/s from a machine to others, over all its adapters")
    ("ranks-per-machine", number(8), "ranks of a machine")
    ("memory-gib", real(80), "memory of a rank, for the largest batch");
  // clang-format on
  return options;
}

ScaleOptions chosen_scale(const po::variables_map& values) {
  const auto number = [&](const char* name) { return at_least(1, values, name, 1'000'000); };
  const auto positive = [&](const char* name, bool zero_too) {
    const double value = values[name].as<double>();
    if (!(0 <= value && value <= 1e9) || (value == 0 && !zero_too))
      throw UsageError(concat("--", name, " must be ", zero_too ? "at least" : "more than",
                              " 0 and at most 1e9, got ", value));
    return value;
  };
  ScaleOptions options;
  options.ranks = rank_list(values["ranks"].as<std::string>());
  options.accum_freq = number("accum-freq");
  if (values["grad-checkpointing"].as<bool>()) options.activations = Activations::kRecomputed;
  options.machines = {.flop_per_s = 1e12 * positive("tflops", true),
                      .loss_flop_per_s = 1e12 * positive("loss-tflops", true),
                      .local_bytes_per_s = 1e9 * positive("local-link-gbytes-per-s", false),
                      .link_bytes_per_s = 1e9 * positive("link-gbytes-per-s", false),
                      .ranks_per_machine = number("ranks-per-machine")};
  options.memory_bytes = kGiB * positive("memory-gib", false);
  return options;
}

namespace {

/// What is the same on every rank, however many there are.
void report_memory(const StepMemory& memory, const ScalePlan& plan, json& result) {
  const std::pair<const char*, double> kinds[] = {{"parameters", memory.parameters},
                                                  {"gradients", memory.gradients},
                                                  {"moments", memory.moments},
                                                  {"bf16 copy", memory.rounded_values},
                                                  {"batch", memory.batch},
                                                  {"features", memory.features},
                                                  {"activations", memory.activations},
                                                  {"backward", memory.backward}};
  say("memory, GiB ");
  json& bytes = result["memory_bytes"];
  for (const auto& [kind, size] : kinds) {
    say("  %s %.3g", kind, size / kGiB);
    bytes[kind] = size;
  }
  say("\n              %.4g MiB of activations a pair\n",
      memory.activations / static_cast<double>(plan.batch_size) / (1 << 20));
}

}  // namespace

void report_scale(const ClipConfig& config, ScalePlan plan, const ScaleOptions& options,
                  json& result) {
  plan.accum_freq = options.accum_freq;
  plan.activations = options.activations;
  Machines machines = options.machines;
  if (machines.loss_flop_per_s == 0) machines.loss_flop_per_s = machines.flop_per_s;
  const auto speed = [&](const StepTime& time) {
    return static_cast<double>(plan.global_pairs()) / time.total();
  };
  plan.ranks = 1;
  const double alone = speed(step_time(config, plan, machines));
  say("assumed     a rank: %.4g TFLOP/s, %.4g in the loss; links: %.4g GB/s within a machine of "
      "%lld ranks, %.4g GB/s out of it\n",
      machines.flop_per_s / 1e12, machines.loss_flop_per_s / 1e12, machines.local_bytes_per_s / 1e9,
      static_cast<long long>(machines.ranks_per_machine), machines.link_bytes_per_s / 1e9);
  report_memory(step_memory(config, plan), plan, result);
  say("seconds of a step; of the gradients' sum, what backward does not hide; %.4g pairs/s on one "
      "rank\n",
      alone);
  say("%6s %9s %9s %8s %15s %8s %8s %10s %6s  %12s %8s %8s\n", "ranks", "pairs", "compute",
      "gather", "sum (exposed)", "loss", "step", "pairs/s", "eff.", "gathered+tile", "peak GiB",
      "largest");
  for (const int64_t ranks : options.ranks) {
    plan.ranks = ranks;
    const StepTime time = step_time(config, plan, machines);
    const StepMemory memory = step_memory(config, plan);
    const int64_t largest = largest_batch(config, plan, options.memory_bytes);
    const double efficiency = speed(time) / static_cast<double>(ranks) / alone;
    say("%6lld %9lld %9.3g %8.2g %7.2g %7.2g %8.2g %8.3g %10.0f %4.0f %%  %5.2f +%5.2f %8.2f "
        "%8lld\n",
        static_cast<long long>(ranks), static_cast<long long>(plan.global_pairs()), time.compute,
        time.gather, time.reduce, time.exposed, time.loss, time.total(), speed(time),
        100 * efficiency, memory.gathered / kGiB, memory.tiles / kGiB, memory.peak / kGiB,
        static_cast<long long>(largest));
    result["scale"].push_back({{"ranks", ranks},
                               {"global_pairs", plan.global_pairs()},
                               {"compute_s", time.compute},
                               {"gather_s", time.gather},
                               {"reduce_s", time.reduce},
                               {"reduce_exposed_s", time.exposed},
                               {"loss_s", time.loss},
                               {"step_s", time.total()},
                               {"pairs_per_s", speed(time)},
                               {"efficiency", efficiency},
                               {"gathered_bytes", memory.gathered},
                               {"tile_bytes", memory.tiles},
                               {"peak_bytes", memory.peak},
                               {"largest_batch", largest}});
  }
}

}  // namespace clip
