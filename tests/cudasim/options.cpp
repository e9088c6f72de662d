#include "tests/cudasim/options.h"

#include <cstdlib>
#include <string_view>

#include "tests/cudasim/fault.h"

namespace cudasim {
namespace {

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : value;
}

[[noreturn]] void refuse(const char* name, const char* expected) {
  fault(std::string(name) + " must be " + expected + ", got '" + std::string(environment(name)) +
        "'");
}

/// 0 if the variable is not set.
double positive(const char* name) {
  if (environment(name).empty()) return 0;
  const double value = std::strtod(environment(name).data(), nullptr);
  if (!(value > 0)) refuse(name, "a positive number");
  return value;
}

Options from_environment() {
  Options result;
  const std::string_view lanes = environment("CUDASIM_LANES");
  constexpr std::string_view kRandomPrefix = "random:";
  if (lanes.starts_with(kRandomPrefix)) {
    result.lanes = LaneOrder::kRandom;
    result.seed = std::strtoull(lanes.substr(kRandomPrefix.size()).data(), nullptr, 10);
  } else if (lanes == "descending") {
    result.lanes = LaneOrder::kDescending;
  } else if (!lanes.empty() && lanes != "ascending") {
    refuse("CUDASIM_LANES", "ascending, descending or random:SEED");
  }

  const std::string_view streams = environment("CUDASIM_STREAMS");
  if (streams == "others") {
    result.streams = StreamOrder::kOthers;
  } else if (streams == "eager") {
    result.streams = StreamOrder::kEager;
  } else if (!streams.empty() && streams != "lazy") {
    refuse("CUDASIM_STREAMS", "lazy, others or eager");
  }

  if (const double mebibytes = positive("CUDASIM_MEMORY_MIB"); mebibytes > 0)
    result.memory_bytes = static_cast<int64_t>(mebibytes * (1 << 20));
  if (const double seconds = positive("CUDASIM_NCCL_SECONDS"); seconds > 0)
    result.nccl_seconds = seconds;
  return result;
}

}  // namespace

Options& options() {
  static Options current = from_environment();
  return current;
}

}  // namespace cudasim
