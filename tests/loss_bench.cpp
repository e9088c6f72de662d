// Time and memory of the losses' share of one rank, 1,024 rows against G columns of width 512.
// usage: loss_bench [ROWS]    with ROWS: one process's whole clip_loss of so many, as JSON
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "autograd/ops.h"
#include "tests/counting_backend.h"
#include "tests/one_of_many_ranks.h"
#include "tests/op_cases.h"

namespace clip {
namespace {

constexpr int64_t kWidth = 512;

struct Cost {
  double seconds = 0, mib = 0;  ///< forward and backward; at the peak, inputs left out
};

template <class Loss>
Cost cost_of(int64_t rows, Communicator& comm, const Loss& loss_of) {
  CountingBackend backend;
  const auto inputs =
      random_inputs({}, {{rows, kWidth}, {rows, kWidth}, {}, {}}, DType::kF32, backend, 1);
  const Variable images(l2_normalize(inputs[0]).value(), true),
      texts(l2_normalize(inputs[1]).value(), true);
  const int64_t before = backend.now();
  const auto start = std::chrono::steady_clock::now();
  {
    Tape tape;
    tape.backward(loss_of(images, texts, inputs[2], inputs[3], comm));
  }
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  return {time.count(), static_cast<double>(backend.peak() - before) / (1 << 20)};
}

Variable clip_loss_of(const Variable& images, const Variable& texts, const Variable& scale,
                      const Variable&, Communicator& comm) {
  return clip_loss(images, texts, scale, comm);
}

void bench_one_process(int64_t rows) {
  const auto comm = make_single_communicator();
  cost_of(rows, *comm, clip_loss_of);  // warms up
  const Cost cost = cost_of(rows, *comm, clip_loss_of);
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  std::printf("{\"rows\": %lld, \"seconds\": %.6f, \"mib\": %.1f, \"peak_memory_bytes\": %lld}\n",
              static_cast<long long>(rows), cost.seconds, cost.mib, 1024ll * usage.ru_maxrss);
}

void bench() {
  constexpr int64_t kRows = 1024;
  std::printf("Loss of a rank, %lld rows of width %lld, F32, forward and backward\n",
              static_cast<long long>(kRows), static_cast<long long>(kWidth));
  std::printf("%8s %22s %22s %26s\n", "G", "clip_loss", "siglip_loss", "one G x G matrix");
  for (const int64_t global_rows : {1024, 4096, 16384, 65536}) {
    OneOfManyRanks comm(global_rows / kRows);
    const Cost clip = cost_of(kRows, comm, clip_loss_of);
    const Cost siglip =
        cost_of(kRows, comm,
                [](const auto& images, const auto& texts, const auto& scale, const auto& bias,
                   auto& ranks) { return siglip_loss(images, texts, scale, bias, ranks); });
    const double dense =
        4.0 * static_cast<double>(global_rows) * static_cast<double>(global_rows) / (1 << 20);
    std::printf("%8lld %8.2f s %7.0f MiB %8.2f s %7.0f MiB %22.0f MiB\n",
                static_cast<long long>(global_rows), clip.seconds, clip.mib, siglip.seconds,
                siglip.mib, dense);
  }
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  const int64_t rows = argc == 2 ? std::atoll(argv[1]) : 0;
  if (argc > 2 || (argc == 2 && rows < 1)) {
    std::fprintf(stderr, "usage: loss_bench [ROWS]\n");
    return 2;
  }
  rows > 0 ? clip::bench_one_process(rows) : clip::bench();
}
