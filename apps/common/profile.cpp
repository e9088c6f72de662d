#include "apps/common/profile.h"

#include <algorithm>

#include "apps/common/bench_runs.h"

namespace clip {
namespace {

std::string kind_of(const OpRun& run) {
  static const std::map<std::string_view, const char*> kinds = {
      {"linear", "gemm"},     {"project", "gemm"},        {"patch_embedding", "gemm"},
      {"conv2d", "gemm"},     {"attention", "attention"}, {"clip_loss", "loss"},
      {"siglip_loss", "loss"}};
  if (run.pass == Pass::kNone) return std::string(run.name);
  const auto found = kinds.find(run.name);
  return found == kinds.end() ? "elementwise" : found->second;
}

/// In thousand millions a second; "-" where there are none.
std::string rate(double count, double seconds) {
  return count > 0 && seconds > 0 ? formatted("%.1f", count / seconds / 1e9) : "-";
}

}  // namespace

Profile::Profile(Backend& backend)
    : backend_(backend), observer_([this](const OpRun& run) { add(run); }) {
  wait_seconds_ = time_runs(backend, 10, 101, [] {}).median;
  last_ = Clock::now();
}

void Profile::add(const OpRun& run) {
  backend_.synchronize();
  const double seconds = std::chrono::duration<double>(Clock::now() - last_).count();
  const OpCost cost = run.cost();
  ProfileRow& row = step_[concat(run.name, run.pass == Pass::kBackward ? " backward" : "")];
  row.kind = kind_of(run);
  row.seconds += std::max(0.0, seconds - wait_seconds_);
  row.calls += 1;
  row.flop += cost.flop;
  row.bytes += cost.bytes;
  last_ = Clock::now();
}

void Profile::end_step() {
  if (++steps_ == 2) rows_.clear();
  for (const auto& [name, row] : step_) {
    ProfileRow& sum = rows_[name];
    sum.kind = row.kind;
    sum.seconds += row.seconds;
    sum.calls += row.calls;
    sum.flop += row.flop;
    sum.bytes += row.bytes;
  }
  step_.clear();
}

std::vector<ProfileRow> Profile::rows() const {
  const auto steps = static_cast<double>(std::max<int64_t>(1, steps_ - 1));
  std::vector<ProfileRow> rows;
  for (const auto& [name, row] : rows_)
    rows.push_back({name, row.kind, row.seconds / steps, row.calls / steps, row.flop / steps,
                    row.bytes / steps});
  return rows;
}

void print_profile(std::vector<ProfileRow> rows) {
  if (rows.empty()) return;
  std::stable_sort(rows.begin(), rows.end(),
                   [](const ProfileRow& a, const ProfileRow& b) { return a.seconds > b.seconds; });
  double seconds = 0, flop = 0;
  for (const ProfileRow& row : rows) {
    seconds += row.seconds;
    flop += row.flop;
  }
  const auto print = [&](const std::string& name, const std::string& calls, double time,
                         const std::string& flop_rate, const std::string& byte_rate) {
    say("%-34s %8s %11.3f %9s %8s %6.1f %%\n", name.c_str(), calls.c_str(), 1e3 * time,
        flop_rate.c_str(), byte_rate.c_str(), 100 * time / seconds);
  };
  say("\n%-34s %8s %11s %9s %8s %8s\n", "op", "calls", "ms a step", "GFLOP/s", "GB/s", "share");
  for (const ProfileRow& row : rows)
    print(row.name, row.calls > 0 ? formatted("%.4g", row.calls) : "-", row.seconds,
          rate(row.flop, row.seconds), rate(row.bytes, row.seconds));
  print("total", "-", seconds, rate(flop, seconds), "-");
}

}  // namespace clip
