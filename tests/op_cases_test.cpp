// What every op case promises: the right gradient, and the same bits every time.
#include "tests/op_cases.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "tests/gradient_check.h"

namespace clip {
namespace {

std::string case_name(const testing::TestParamInfo<OpCase>& info) { return info.param.name; }

class EveryOp : public testing::TestWithParam<OpCase> {};

TEST_P(EveryOp, HasTheGradientThatCentralDifferencesShow) {
  const OpCase& op = GetParam();
  const auto inputs = random_inputs(op.small, DType::kF64, cpu_backend(), 3);
  std::vector<std::string> names;
  for (size_t i = 0; i < inputs.size(); ++i) names.push_back(concat(op.name, ", input ", i));
  EXPECT_EQ(check_gradients([&] { return op.run(inputs); }, inputs, names), "");
}

/// Bytes of all outputs and all gradients of one run.
std::vector<std::vector<char>> bits_of_run(const OpCase& op, const OpCase::Shapes& shapes,
                                           DType dtype) {
  const auto inputs = random_inputs(shapes, dtype, cpu_backend(), 3);
  Tape tape;
  const auto outputs = op.run(inputs);
  std::vector<Tensor> cotangents, results;
  for (const Variable& output : outputs) {
    cotangents.push_back(random_tensor(output.shape(), dtype, cpu_backend(), 5, cotangents.size()));
    results.push_back(output.value());
  }
  tape.backward(outputs, cotangents);
  for (const Variable& input : inputs)
    if (input.has_grad()) results.push_back(input.grad());
  std::vector<std::vector<char>> bits;
  for (const Tensor& result : results) {
    bits.emplace_back(static_cast<size_t>(result.bytes()));
    result.copy_to_host(bits.back().data());
  }
  return bits;
}

TEST_P(EveryOp, GivesTheSameBitsTwiceAndOnOneThreadOrThree) {
  const OpCase& op = GetParam();
  const int threads = omp_get_max_threads();
  for (DType dtype : {DType::kF64, DType::kF32}) {
    omp_set_num_threads(1);
    const auto one = bits_of_run(op, op.small, dtype);
    omp_set_num_threads(3);
    EXPECT_EQ(one, bits_of_run(op, op.small, dtype)) << dtype;
    EXPECT_EQ(one, bits_of_run(op, op.small, dtype)) << dtype;
  }
  omp_set_num_threads(threads);
}

TEST_P(EveryOp, AgreesInF32WithF64) {
  const OpCase& op = GetParam();
  const auto run = [&](DType dtype) {
    const auto inputs64 = random_inputs(op.small, DType::kF64, cpu_backend(), 3);
    std::vector<Variable> inputs;
    for (const Variable& input : inputs64) {
      // Both runs start from numbers that F32 holds exactly.
      Tensor single = Tensor::empty(cpu_backend(), input.shape(), DType::kF32);
      cpu_backend().convert(single, input.value());
      Tensor value = Tensor::empty(cpu_backend(), input.shape(), dtype);
      if (dtype == DType::kF32)
        value = single;
      else
        cpu_backend().convert(value, single);
      inputs.emplace_back(value, true);
    }
    std::vector<std::vector<double>> results;
    for (const Variable& output : op.run(inputs)) {
      Tensor wide = Tensor::empty(cpu_backend(), output.shape(), DType::kF64);
      if (dtype == DType::kF64)
        wide = output.value();
      else
        cpu_backend().convert(wide, output.value());
      results.push_back(wide.to_vector<double>());
    }
    return results;
  };
  const auto narrow = run(DType::kF32), wide = run(DType::kF64);
  for (size_t i = 0; i < wide.size(); ++i) {
    double largest = 0, error = 0;
    for (size_t j = 0; j < wide[i].size(); ++j) {
      largest = std::max(largest, std::abs(wide[i][j]));
      error = std::max(error, std::abs(wide[i][j] - narrow[i][j]));
    }
    EXPECT_LE(error, 5e-6 * std::max(1.0, largest)) << "output " << i;  // tens of roundings of 6e-8
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, EveryOp, testing::ValuesIn(op_cases()), case_name);

}  // namespace

/// GoogleTest prints a failing case by its name.
void PrintTo(const OpCase& op, std::ostream* out) { *out << op.name; }

}  // namespace clip
