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
  double flop_per_s, bytes_per_s;
};

Peak measure_peak() {
  Backend& backend = cpu_backend();
  const int64_t side = 1024, length = 32 << 20;
  const Tensor a = random_tensor({side, side}, DType::kF32, backend, 1, 1);
  Tensor c = Tensor::like(a);
  const auto multiply = [&] { backend.matmul(c, a, Transpose::kNo, a, Transpose::kNo, {}); };
  const double product = time_runs(backend, 1, 20, multiply).least;
  Tensor x = Tensor::zeros(backend, {length}, DType::kF32);
  const Tensor y = x.clone();
  const double addition = time_runs(backend, 1, 5, [&] { backend.add(x, y); }).least;
  const double cube =
      static_cast<double>(side) * static_cast<double>(side) * static_cast<double>(side);
  return {2 * cube / product, 3 * 4.0 * static_cast<double>(length) / addition};
}

/// Bytes that an op must move at least: inputs and outputs, once forward and twice backward.
double least_bytes(const OpCase& op, const std::vector<Variable>& outputs) {
  double bytes = 0;
  for (const Shape& shape : op.large) bytes += 4.0 * static_cast<double>(shape.numel());
  for (const Variable& output : outputs) bytes += 4.0 * static_cast<double>(output.shape().numel());
  return 3 * bytes;
}

void bench_op(const OpCase& op, const Peak& peak) {
  const auto inputs = random_inputs(op.large, DType::kF32, cpu_backend(), 1);
  std::vector<Tensor> cotangents;
  double bytes = 0;
  {
    const auto outputs = op.run(inputs);
    for (const Variable& output : outputs)
      cotangents.push_back(
          random_tensor(output.shape(), DType::kF32, cpu_backend(), 2, cotangents.size()));
    bytes = least_bytes(op, outputs);
  }
  const double time = time_runs(cpu_backend(), 1, 9, [&] {
                        for (const Variable& input : inputs) input.clear_gradient();
                        Tape tape;
                        const auto outputs = op.run(inputs);
                        tape.backward(outputs, cotangents);
                      }).median;
  const double flop = op.flop(op.large);
  if (flop > 0)
    std::printf("%-28s %9.3f ms %8.1f GFLOP/s %5.0f %% of peak\n", op.name.c_str(), 1e3 * time,
                flop / time / 1e9, 100 * flop / time / peak.flop_per_s);
  else
    std::printf("%-28s %9.3f ms %8.1f GB/s    %5.0f %% of peak\n", op.name.c_str(), 1e3 * time,
                bytes / time / 1e9, 100 * bytes / time / peak.bytes_per_s);
}

void bench_step(const char* name, int64_t batch_size, int64_t text_length, const Peak& peak) {
  const ClipConfig config = preset(name);
  ClipModel model(config, cpu_backend());
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
      static_cast<double>(batch_size) * needed_flop(config, text_length) / peak.flop_per_s;
  std::printf(
      "step %-9s batch %-4lld captions of %-3lld %9.1f ms  %7.1f pairs/s   floor %8.1f ms  ratio "
      "%.2f\n",
      name, static_cast<long long>(batch_size), static_cast<long long>(text_length), 1e3 * time,
      static_cast<double>(batch_size) / time, 1e3 * floor, time / floor);
}

void bench() {
  const Peak peak = measure_peak();
  std::printf("%d threads; peak measured here: %.0f GFLOP/s in F32 products, %.1f GB/s\n",
              omp_get_max_threads(), peak.flop_per_s / 1e9, peak.bytes_per_s / 1e9);
  std::printf("Ops, forward and backward, F32, median of 9\n");
  for (const OpCase& op : op_cases())
    if (!op.large.empty()) bench_op(op, peak);
  std::printf("Training steps, F32, median of 5; floor: needed FLOP at the peak\n");
  bench_step("emoji", 128, 9, peak);
  bench_step("tiny", 256, 12, peak);
  bench_step("ViT-B-32", 32, 16, peak);
}

}  // namespace
}  // namespace clip

int main() { clip::bench(); }
