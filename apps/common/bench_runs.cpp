#include "apps/common/bench_runs.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/random.h"

namespace clip {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

HostBatch made_up_batch(const ClipConfig& config, int64_t batch_size, int64_t text_length) {
  HostBatch batch;
  const int64_t size = config.vision.image_size;
  Random random(1, random_stream("bench"));
  batch.images.resize(static_cast<size_t>(batch_size * size * size * 3));
  for (uint8_t& pixel : batch.images) pixel = static_cast<uint8_t>(random.bits());
  const auto end = static_cast<int32_t>(config.text.vocab_size) - 1;
  for (int64_t i = 0; i < batch_size; ++i) {
    std::vector<int32_t> caption = {end - 1};
    while (static_cast<int64_t>(caption.size()) < text_length - 1)
      caption.push_back(static_cast<int32_t>(random.below(end - 1)));
    caption.push_back(end);
    batch.tokens.push_back(caption);
  }
  return batch;
}

Timing time_runs(Backend& backend, int64_t warmup, int64_t runs,
                 const std::function<void()>& work) {
  std::vector<double> times;
  for (int64_t run = -warmup; run < runs; ++run) {
    const auto start = std::chrono::steady_clock::now();
    work();
    backend.synchronize();
    if (run >= 0) times.push_back(seconds_since(start));
  }
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back()};
}

// NVIDIA's data sheets, without sparsity.
double known_peak(const std::string& device_name) {
  const std::pair<const char*, double> peaks[] = {
      {"A100", 312e12}, {"H100 PCIe", 756e12}, {"H100", 989e12}, {"H200", 989e12}};
  for (const auto& [name, peak] : peaks)
    if (device_name.find(name) != std::string::npos) return peak;
  return 0;
}

}  // namespace clip
