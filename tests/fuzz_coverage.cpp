// What libFuzzer calls: it changes inputs so that they reach code no other input has reached.
// `make fuzz` runs it where clang++ has libFuzzer, a minute for each kind of file.
//
// Usage: FUZZ_KIND=torch fuzz_coverage [libFuzzer's options] CORPUS [FOLDERS]. An input that ends
// it is left in the current folder.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "models/atomic_file.h"
#include "tests/fuzz_targets.h"

namespace clip {
namespace {

const FuzzTarget& chosen_target() {
  const char* const kind = std::getenv("FUZZ_KIND");
  const auto found = fuzz_targets().find(kind == nullptr ? "" : kind);
  CLIP_CHECK(found != fuzz_targets().end(), "FUZZ_KIND must name a kind of file");
  return found->second;
}

}  // namespace
}  // namespace clip

/// Adds the inputs made on the spot to the corpus, the first folder named.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  const auto is_folder = [](std::string_view argument) { return !argument.starts_with('-'); };
  char** const corpus = std::find_if(*argv + 1, *argv + *argc, is_folder);
  if (corpus == *argv + *argc) return 0;
  const clip::ScratchFolder folder;
  const auto seeds = clip::chosen_target().seeds(folder);
  for (size_t i = 0; i < seeds.size(); ++i)
    clip::write_file(clip::concat(*corpus, "/made_", i), seeds[i]);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const clip::FuzzTarget& target = clip::chosen_target();
  static const clip::ScratchFolder folder;
  try {
    target.read(folder.write("input" + target.ending, {reinterpret_cast<const char*>(data), size}));
  } catch (const clip::Error&) {
  }
  return 0;
}
