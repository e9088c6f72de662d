#include "apps/common/bench_ops.h"

#include <vector>

#include "apps/common/bench_runs.h"
#include "tests/op_cases.h"

namespace clip {
namespace {

/// Bytes that an op must move at least: inputs and outputs, once forward and twice backward.
double least_bytes(const std::vector<Variable>& inputs, const std::vector<Variable>& outputs) {
  double bytes = 0;
  for (const Variable& input : inputs) bytes += static_cast<double>(input.value().bytes());
  for (const Variable& output : outputs) bytes += static_cast<double>(output.value().bytes());
  return 3 * bytes;
}

nlohmann::json bench_op(const OpCase& op, Backend& backend, DType dtype, int64_t warmup,
                        int64_t runs, const Peak& peak) {
  const auto inputs = random_inputs(op, op.large, dtype, backend, 1);
  std::vector<Tensor> cotangents;
  double bytes = 0;
  {
    const auto outputs = op.run(inputs);
    for (const Variable& output : outputs)
      cotangents.push_back(
          random_tensor(output.shape(), output.dtype(), backend, 2, cotangents.size()));
    bytes = least_bytes(inputs, outputs);
  }
  const double seconds = time_runs(backend, warmup, runs, [&] {
                           for (const Variable& input : inputs) input.clear_gradient();
                           Tape tape;
                           const auto outputs = op.run(inputs);
                           tape.backward(outputs, cotangents);
                         }).median;
  const double flop = op.flop(op.large);
  const bool products = flop > 0;
  const double speed = (products ? flop : bytes) / seconds;
  const double share = speed / (products ? peak.flop_per_s : peak.bytes_per_s);
  say("%-40s %9.3f ms %8.1f %-8s %5.0f %% of peak\n", op.name.c_str(), 1e3 * seconds, speed / 1e9,
      products ? "GFLOP/s" : "GB/s", 100 * share);
  return {{"op", op.name},
          {"seconds", seconds},
          {products ? "flop_per_s" : "bytes_per_s", speed},
          {"share_of_peak", share}};
}

}  // namespace

Peak measure_peak(Backend& backend, DType dtype) {
  const bool cpu = backend.device().kind == Device::Kind::kCpu;
  const int64_t side = cpu ? 1024 : 8192, length = 32 << 20;
  const Tensor a = random_tensor({side, side}, dtype, backend, 1, 1);
  Tensor c = Tensor::like(a);
  const auto multiply = [&] { backend.matmul(c, a, Transpose::kNo, a, Transpose::kNo, {}); };
  Tensor x = Tensor::zeros(backend, {length}, DType::kF32);
  const Tensor y = x.clone();
  const auto add = [&] { backend.add(x, y); };
  const auto edge = static_cast<double>(side);
  return {2 * edge * edge * edge / time_runs(backend, 1, 20, multiply).least,
          3 * 4.0 * static_cast<double>(length) / time_runs(backend, 1, 5, add).least};
}

void bench_ops(const std::string& name, Backend& backend, DType dtype, int64_t warmup, int64_t runs,
               nlohmann::json& result) {
  std::vector<const OpCase*> chosen;
  for (const OpCase& op : op_cases())
    if (op.name.starts_with(name) && !op.large.empty() &&
        (dtype == DType::kF32 || op.activations != OpCase::kFeatures))
      chosen.push_back(&op);
  if (chosen.empty())
    throw UsageError(concat("--ops knows no op whose name begins with '", name, "'"));
  const Peak peak = measure_peak(backend, dtype);
  say("peak        %.4g GFLOP/s in products, %.4g GB/s, measured\n", peak.flop_per_s / 1e9,
      peak.bytes_per_s / 1e9);
  nlohmann::json ops = nlohmann::json::array();
  for (const OpCase* op : chosen) ops.push_back(bench_op(*op, backend, dtype, warmup, runs, peak));
  result.update(
      {{"peak_flop_per_s", peak.flop_per_s}, {"peak_bytes_per_s", peak.bytes_per_s}, {"ops", ops}});
}

}  // namespace clip
