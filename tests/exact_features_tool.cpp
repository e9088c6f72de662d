// One line about a model of another library: how far its features in our hands are from its own.
// Usage: exact_features_tool NAME MODEL FEATURES.json; `make test-exact` runs it.
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <fstream>

#include "models/clip.h"
#include "tests/reference_features.h"

namespace clip {
namespace {

using Clock = std::chrono::steady_clock;

// Loading alone, before anything else has taken memory.
void report_loading(const std::string& model) {
  const auto begin = Clock::now();
  ClipModel loaded(load_config(model), cpu_backend());
  load_parameters(model, loaded.parameters);
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const double megabytes = 4e-6 * static_cast<double>(loaded.parameters.count());
  const auto in_seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  std::printf(
      "  loaded %7.1f MB of F32 in %5.2f s (%.2f s of processor time), peak memory %.2f of that;",
      megabytes, seconds, in_seconds(usage.ru_utime) + in_seconds(usage.ru_stime),
      1.024e-3 * static_cast<double>(usage.ru_maxrss) / megabytes);
}

int report(const std::string& name, const std::string& model, const std::string& features) {
  // Sums of 1280 products in F32, through up to 24 blocks.
  constexpr double kTolerance = 1e-4;
  std::printf("%-18s", name.c_str());
  report_loading(model);
  const FeatureDifference found =
      compare_features(model, {}, nlohmann::json::parse(std::ifstream(features)));
  const bool is_equal = found.image < kTolerance && found.text < kTolerance && found.same_matches;
  std::printf(" images within %.1e, texts within %.1e of the largest component, %s\n", found.image,
              found.text, is_equal ? "equal" : "DIFFERENT");
  return is_equal ? 0 : 1;
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  if (argc == 4) return clip::report(argv[1], argv[2], argv[3]);
  std::fprintf(stderr, "usage: exact_features_tool NAME MODEL FEATURES.json\n");
  return 2;
}
