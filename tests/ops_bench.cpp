// Milliseconds of every op case and of whole training steps, beside what the machine can do.
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <vector>

#include "models/training.h"
#include "tests/op_cases.h"

namespace clip {
namespace {

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Median of several runs, after one that warms caches and the allocator.
double median_seconds(const std::function<void()>& work, int runs) {
  work();
  std::vector<double> times;
  for (int run = 0; run < runs; ++run) times.push_back(seconds(work));
  std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
  return times[static_cast<size_t>(runs / 2)];
}

/// What the machine does at best, measured: the fastest of several large products, and a long addition.
struct Peak {
  double f32_flop_per_s, bf16_flop_per_s, bytes_per_s;

  double flop_per_s(DType dtype) const {
    return dtype == DType::kBF16 ? bf16_flop_per_s : f32_flop_per_s;
  }
};

constexpr DType kPrecisions[] = {DType::kF32, DType::kBF16};

Peak measure_peak() {
  Backend& backend = cpu_backend();
  const int64_t side = 1024, length = 32 << 20;
  const double cube =
      static_cast<double>(side) * static_cast<double>(side) * static_cast<double>(side);
  const auto product_flop_per_s = [&](DType dtype) {
    const Tensor a = random_tensor({side, side}, dtype, backend, 1, 1);
    Tensor c = Tensor::like(a);
    double product = 1e9;
    for (int run = 0; run < 20; ++run)
      product = std::min(
          product, seconds([&] { backend.matmul(c, a, Transpose::kNo, a, Transpose::kNo, {}); }));
    return 2 * cube / product;
  };
  double addition = 1e9;
  Tensor x = Tensor::zeros(backend, {length}, DType::kF32);
  const Tensor y = x.clone();
  for (int run = 0; run < 5; ++run)
    addition = std::min(addition, seconds([&] { backend.add(x, y); }));
  return {product_flop_per_s(DType::kF32), product_flop_per_s(DType::kBF16),
          3 * 4.0 * static_cast<double>(length) / addition};
}

/// Bytes that an op must move at least: inputs and outputs, once forward and twice backward.
double least_bytes(const std::vector<Variable>& inputs, const std::vector<Variable>& outputs) {
  double bytes = 0;
  for (const Variable& input : inputs) bytes += static_cast<double>(input.value().bytes());
  for (const Variable& output : outputs) bytes += static_cast<double>(output.value().bytes());
  return 3 * bytes;
}

void bench_op(const OpCase& op, DType dtype, const Peak& peak) {
  const auto inputs = random_inputs(op, op.large, dtype, cpu_backend(), 1);
  std::vector<Tensor> cotangents;
  double bytes = 0;
  {
    const auto outputs = op.run(inputs);
    for (const Variable& output : outputs)
      cotangents.push_back(
          random_tensor(output.shape(), output.dtype(), cpu_backend(), 2, cotangents.size()));
    bytes = least_bytes(inputs, outputs);
  }
  const double time = median_seconds(
      [&] {
        for (const Variable& input : inputs) input.clear_gradient();
        Tape tape;
        const auto outputs = op.run(inputs);
        tape.backward(outputs, cotangents);
      },
      9);
  const double flop = op.flop(op.large);
  if (flop > 0)
    std::printf("%-25s %-4s %9.3f ms %8.1f GFLOP/s %5.0f %% of peak\n", op.name.c_str(),
                name_of(dtype), 1e3 * time, flop / time / 1e9,
                100 * flop / time / peak.flop_per_s(dtype));
  else
    std::printf("%-25s %-4s %9.3f ms %8.1f GB/s    %5.0f %% of peak\n", op.name.c_str(),
                name_of(dtype), 1e3 * time, bytes / time / 1e9,
                100 * bytes / time / peak.bytes_per_s);
}

/// Floating-point operations that a training step needs: products of towers with the last block at one row, and
/// attention; three times the forward pass. The loss and all elementwise work are left out.
double step_flop(const ClipConfig& config, int64_t batch, int64_t text_length) {
  const auto tower = [](double width, double layers, double rows, double keys, double mlp) {
    const double whole = rows * (2 * width * (4 * width + 2 * mlp) + 4 * keys * width);
    const double last =
        rows * 4 * width * width + 2 * width * (2 * width + 2 * mlp) + 4 * keys * width;
    return (layers - 1) * whole + last;
  };
  const auto real = [](int64_t value) { return static_cast<double>(value); };
  const VisionConfig& v = config.vision;
  const TextConfig& t = config.text;
  const double tokens = real(v.patches() + 1), patch = 3 * real(v.patch_size * v.patch_size);
  const double image = tower(real(v.width), real(v.layers), tokens, tokens, real(v.mlp_width())) +
                       2 * real(v.patches()) * patch * real(v.width) +
                       2 * real(v.width * config.embed_dim);
  const double text = tower(real(t.width), real(t.layers), real(text_length), real(text_length) / 2,
                            real(t.mlp_width())) +
                      2 * real(t.width * config.embed_dim);
  return 3 * real(batch) * (image + text);
}

void bench_step(const char* name, int64_t batch_size, int64_t text_length, DType dtype,
                const Peak& peak) {
  const ClipConfig config = preset(name);
  ClipModel model(config, cpu_backend(), dtype);
  initialize(model.parameters, config, 1);
  AdamW optimizer(model.parameters, {});
  HostBatch host;
  const int64_t size = config.vision.image_size;
  Random random(1, random_stream("bench"));
  host.images.resize(static_cast<size_t>(batch_size * size * size * 3));
  for (uint8_t& pixel : host.images) pixel = static_cast<uint8_t>(random.bits());
  const int32_t end = static_cast<int32_t>(config.text.vocab_size) - 1;
  for (int64_t i = 0; i < batch_size; ++i) {
    std::vector<int32_t> caption = {end - 1};
    while (static_cast<int64_t>(caption.size()) < text_length - 1)
      caption.push_back(static_cast<int32_t>(random.below(end - 1)));
    caption.push_back(end);
    host.tokens.push_back(caption);
  }
  const auto comm = make_single_communicator();
  const double time = median_seconds(
      [&] { train_step(model, optimizer, to_device(host, size, cpu_backend()), 1e-5, *comm); }, 5);
  const double floor = step_flop(config, batch_size, text_length) / peak.flop_per_s(dtype);
  std::printf(
      "step %-8s %-4s batch %-3lld captions of %-3lld %8.1f ms %7.1f pairs/s  floor %7.1f ms  "
      "ratio "
      "%.2f\n",
      name, name_of(dtype), static_cast<long long>(batch_size), static_cast<long long>(text_length),
      1e3 * time, static_cast<double>(batch_size) / time, 1e3 * floor, time / floor);
}

void bench() {
  const Peak peak = measure_peak();
  std::printf(
      "%d threads; peak measured here: %.0f GFLOP/s in F32 products, %.0f in BF16, %.1f GB/s\n",
      omp_get_max_threads(), peak.f32_flop_per_s / 1e9, peak.bf16_flop_per_s / 1e9,
      peak.bytes_per_s / 1e9);
  std::printf("Ops, forward and backward, median of 9\n");
  for (const OpCase& op : op_cases())
    for (const DType dtype : kPrecisions)
      if (!op.large.empty() && (dtype == DType::kF32 || op.activations != OpCase::kFeatures))
        bench_op(op, dtype, peak);
  std::printf("Training steps, median of 5; floor: needed FLOP at the peak\n");
  for (const DType dtype : kPrecisions) {
    bench_step("emoji", 128, 9, dtype, peak);
    bench_step("tiny", 256, 12, dtype, peak);
    bench_step("ViT-B-32", 32, 16, dtype, peak);
  }
}

}  // namespace
}  // namespace clip

int main() { clip::bench(); }
