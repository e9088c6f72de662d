// Damages files at random and reads them: a clip::Error is right, anything else is a finding.
// `make fuzz` runs it where clang++ has no libFuzzer, under AddressSanitizer and UBSan, a minute for
// each kind of file.
//
// Usage: fuzz_tool KIND SECONDS SEED [FILES]. The input being read is fuzz_<KIND>.input in the
// current folder; after a crash or a hang it is the culprit.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "engine/random.h"
#include "models/atomic_file.h"
#include "tests/fuzz_targets.h"

namespace clip {
namespace {

constexpr unsigned kHangSeconds = 20;  // ten thousand times what a small file takes
constexpr int64_t kMostBytes = 1 << 20;

/// Inputs made from others by small damages.
class Mutator {
 public:
  Mutator(std::vector<std::string> seeds, uint64_t seed)
      : seeds_(std::move(seeds)), random_(seed, random_stream("fuzz")) {}

  std::string next() {
    std::string bytes = pick();
    for (int64_t count = 1 + below(4); count > 0; --count) damage(bytes);
    if (std::ssize(bytes) > kMostBytes) bytes.resize(kMostBytes);
    return bytes;
  }

 private:
  int64_t below(int64_t count) { return count <= 0 ? 0 : random_.below(count); }
  const std::string& pick() {
    return seeds_[static_cast<size_t>(below(static_cast<int64_t>(seeds_.size())))];
  }

  // Headers lie at either end, so those places are taken more often.
  size_t place(const std::string& bytes) {
    constexpr int64_t kNear = 2048;
    const int64_t size = std::ssize(bytes), near = std::min(size, kNear);
    const int64_t choices[] = {below(near), size - 1 - below(near), below(size)};
    return static_cast<size_t>(std::max<int64_t>(0, choices[below(3)]));
  }

  void damage(std::string& bytes) {
    if (bytes.empty()) bytes = " ";
    const size_t at = place(bytes);
    const size_t run = static_cast<size_t>(1 + below(16));
    switch (below(9)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ 1 << below(8));
        return;
      case 1:
        bytes[at] = static_cast<char>(below(256));
        return;
      case 2:
        return overwrite(bytes, at);
      case 3:
        bytes.erase(at, run);
        return;
      case 4:
        bytes.insert(at, bytes.substr(place(bytes), run));
        return;
      case 5:
        bytes.resize(at);
        return;
      case 6:
        return change_number(bytes, at);
      case 7: {
        const std::string& other = pick();
        const size_t from = other.empty() ? 0 : place(other);
        bytes.replace(at, run, other.substr(from, run));
        return;
      }
      default:
        bytes.insert(at, run * 8, bytes[at]);
    }
  }

  // Sizes at which sums overflow.
  void overwrite(std::string& bytes, size_t at) {
    const uint64_t values[] = {0,          1,          ~uint64_t{0}, uint64_t{1} << 63, INT64_MAX,
                               0x7fffffff, 0x80000000, 0xffff,       bytes.size()};
    const uint64_t value = values[below(std::ssize(values))];
    const size_t width = size_t{1} << below(4);
    bytes.replace(at, width, std::string(reinterpret_cast<const char*>(&value), width));
  }

  // The next number in digits becomes another.
  void change_number(std::string& bytes, size_t at) {
    const char* const values[] = {
        "0",    "1",  "-1",  "9223372036854775807", "18446744073709551616", "1e9", "2.5",
        "null", "[]", "\"\""};
    const size_t begin = bytes.find_first_of("0123456789", at);
    if (begin == std::string::npos) return;
    const size_t end = std::min(bytes.find_first_not_of("0123456789", begin), bytes.size());
    bytes.replace(begin, end - begin, values[below(std::ssize(values))]);
  }

  std::vector<std::string> seeds_;
  Random random_;
};

int fuzz(const std::string& kind, const FuzzTarget& target, double seconds, uint64_t seed,
         std::vector<std::string> seeds) {
  const ScratchFolder folder;
  for (const std::string& made : target.seeds(folder)) seeds.push_back(made);
  Mutator mutator(seeds, seed);
  const std::string input = "fuzz_" + kind + ".input", path = folder.path("input" + target.ending);
  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  int64_t tried = 0, read = 0;
  while (elapsed() < seconds) {
    const std::string bytes =
        tried < std::ssize(seeds) ? seeds[static_cast<size_t>(tried)] : mutator.next();
    ++tried;
    std::ofstream(input, std::ios::binary) << bytes;
    std::ofstream(path, std::ios::binary) << bytes;
    ::alarm(kHangSeconds);
    try {
      target.read(path);
      ++read;
    } catch (const Error& error) {
      CLIP_CHECK(tried > std::ssize(seeds), kind,
                 ": an undamaged input is refused: ", error.what());
    } catch (const std::exception& error) {
      std::printf("%s: not a clip::Error but \"%s\"; the input is %s\n", kind.c_str(), error.what(),
                  input.c_str());
      return 1;
    }
  }
  ::alarm(0);
  std::remove(input.c_str());
  std::printf("%-12s %lld inputs, %lld of them read, the others refused with a sentence\n",
              kind.c_str(), static_cast<long long>(tried), static_cast<long long>(read));
  return 0;
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  const auto& targets = clip::fuzz_targets();
  if (argc < 4 || !targets.contains(argv[1])) {
    std::fprintf(stderr, "usage: fuzz_tool KIND SECONDS SEED [FILES]; kinds:");
    for (const auto& [kind, target] : targets) std::fprintf(stderr, " %s", kind.c_str());
    std::fprintf(stderr, "\n");
    return 2;
  }
  try {
    std::vector<std::string> seeds;
    for (int i = 4; i < argc; ++i) seeds.push_back(clip::read_file(argv[i], int64_t{1} << 30));
    return clip::fuzz(argv[1], targets.at(argv[1]), std::atof(argv[2]),
                      std::strtoull(argv[3], nullptr, 10), seeds);
  } catch (const clip::Error& error) {
    std::fprintf(stderr, "fuzz_tool: %s\n", error.what());
    return 1;
  }
}
