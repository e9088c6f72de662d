#include "tests/cudasim/fault.h"

#include <unistd.h>

#include <cstdio>

#include "tests/cudasim/block.h"
#include "tests/cudasim/options.h"

namespace cudasim {
namespace {

std::string orders() {
  static constexpr const char* kLanes[] = {"ascending", "descending", "random:"};
  static constexpr const char* kStreams[] = {"lazy", "others", "eager"};
  const Options& current = options();
  std::string text = "CUDASIM_LANES=";
  text += kLanes[static_cast<int>(current.lanes)];
  if (current.lanes == LaneOrder::kRandom) text += std::to_string(current.seed);
  return text + " CUDASIM_STREAMS=" + kStreams[static_cast<int>(current.streams)];
}

}  // namespace

void fault(const std::string& message) {
  static bool reported = false;
  std::fflush(stdout);
  if (!reported) {  // options() itself may be at fault
    reported = true;
    const std::string kernel = running_kernel();
    const std::string context = kernel.empty() ? "" : "\n  in " + kernel + "\n  " + orders();
    std::fprintf(stderr, "cudasim: %s%s\n", message.c_str(), context.c_str());
  }
  std::fflush(stderr);
  _exit(kFaultExitCode);
}

}  // namespace cudasim
