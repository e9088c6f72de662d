// Milliseconds of every op case and of whole training steps, beside what the machine can do.
#include <omp.h>

#include <cstdio>
#include <vector>

#include "apps/common/bench_runs.h"
#include "models/flop.h"
#include "models/training.h"
#include "tests/op_cases.h"

namespace clip {
namespace {

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
    const auto multiply = [&] { backend.matmul(c, a, Transpose::kNo, a, Transpose::kNo, {}); };
    return 2 * cube / time_runs(backend, 1, 20, multiply).least;
  };
  Tensor x = Tensor::zeros(backend, {length}, DType::kF32);
  const Tensor y = x.clone();
  const double addition = time_runs(backend, 1, 5, [&] { backend.add(x, y); }).least;
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
  const double time = time_runs(cpu_backend(), 1, 9, [&] {
                        for (const Variable& input : inputs) input.clear_gradient();
                        Tape tape;
                        const auto outputs = op.run(inputs);
                        tape.backward(outputs, cotangents);
                      }).median;
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

void bench_step(const char* name, int64_t batch_size, int64_t text_length, DType dtype,
                const Peak& peak) {
  const ClipConfig config = preset(name);
  ClipModel model(config, cpu_backend(), dtype);
  initialize(model.parameters, config, 1);
  AdamW optimizer(model.parameters, {});
  const HostBatch host = made_up_batch(config, batch_size, text_length);
  const auto comm = make_single_communicator();
  const int64_t size = config.vision.image_size;
  const double time =
      time_runs(cpu_backend(), 1, 5, [&] {
        train_step(model, optimizer, to_device(host, size, cpu_backend()), 1e-5, *comm);
      }).median;
  const double floor =
      static_cast<double>(batch_size) * needed_flop(config, text_length) / peak.flop_per_s(dtype);
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
