#include "tests/gradient_check.h"

#include <algorithm>
#include <cmath>

#include "engine/random.h"
#include "tests/op_cases.h"

namespace clip {
namespace {

using Function = std::function<std::vector<Variable>()>;

/// <outputs, cotangents>, the scalar whose gradient is checked.
double objective(const Function& function, const std::vector<std::vector<double>>& cotangents) {
  double total = 0;
  const auto outputs = function();
  for (size_t i = 0; i < outputs.size(); ++i) {
    const auto y = outputs[i].value().to_vector<double>();
    for (size_t j = 0; j < y.size(); ++j) total += y[j] * cotangents[i][j];
  }
  return total;
}

/// Cotangents of length about one, so that the objective's rounding stays far below the tolerance.
std::vector<Tensor> random_cotangents(const std::vector<Variable>& outputs, uint64_t seed) {
  std::vector<Tensor> cotangents;
  for (const Variable& output : outputs) {
    auto values =
        random_tensor(output.shape(), DType::kF64, output.backend(), seed, 1000 + cotangents.size())
            .to_vector<double>();
    for (double& value : values) value /= std::sqrt(static_cast<double>(values.size()));
    cotangents.push_back(Tensor::from<double>(output.backend(), output.shape(), values));
  }
  return cotangents;
}

/// Central difference of the objective as `x` moves along `direction`.
double difference(const Function& function, const std::vector<std::vector<double>>& cotangents,
                  Tensor x, const std::vector<std::pair<size_t, double>>& direction, double step) {
  const auto original = x.to_vector<double>();
  const auto at = [&](double distance) {
    auto moved = original;
    for (auto [index, amount] : direction) moved[index] += distance * amount;
    x.copy_from_host(moved.data());
    return objective(function, cotangents);
  };
  const double ahead = at(step), behind = at(-step);
  x.copy_from_host(original.data());
  return (ahead - behind) / (2 * step);
}

}  // namespace

std::string check_gradients(const Function& function, const std::vector<Variable>& inputs,
                            const std::vector<std::string>& names,
                            const GradientCheckOptions& options) {
  std::vector<std::vector<double>> cotangents;
  {
    Tape tape;
    const auto outputs = function();
    const auto tensors = random_cotangents(outputs, options.seed);
    for (const Tensor& tensor : tensors) cotangents.push_back(tensor.to_vector<double>());
    tape.backward(outputs, tensors);
  }
  std::string report;
  int mismatches = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& x = inputs[i].value();
    const size_t count = static_cast<size_t>(x.numel());
    std::vector<double> gradient(count, 0.0);
    if (inputs[i].has_grad()) gradient = inputs[i].grad().to_vector<double>();
    const auto compare = [&](const std::string& where,
                             const std::vector<std::pair<size_t, double>>& direction) {
      double analytic = 0;
      for (auto [index, amount] : direction) analytic += gradient[index] * amount;
      const double numeric = difference(function, cotangents, x, direction, options.step);
      if (std::abs(analytic - numeric) <= options.tolerance * std::max(1.0, std::abs(numeric)))
        return;
      if (++mismatches <= 5)
        report += concat(names[i], ' ', x.shape(), where, ": analytic ", analytic, ", numeric ",
                         numeric, '\n');
    };
    Random random(options.seed, 2000 + i);
    const bool all = count <= static_cast<size_t>(options.elements);
    for (size_t k = 0; k < std::min(count, static_cast<size_t>(options.elements)); ++k) {
      const size_t index = all ? k : static_cast<size_t>(random.below(static_cast<int64_t>(count)));
      compare(concat(" at ", index), {{index, 1.0}});
    }
    for (int direction = 0; !all && direction < 2; ++direction) {
      std::vector<std::pair<size_t, double>> everywhere(count);
      for (size_t k = 0; k < count; ++k)
        everywhere[k] = {k, random.normal() / std::sqrt(static_cast<double>(count))};
      compare(concat(" along random direction ", direction), everywhere);
    }
  }
  if (mismatches > 5) report += concat("... ", mismatches, " mismatches in all\n");
  return report;
}

}  // namespace clip
