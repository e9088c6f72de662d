// What every op case promises: the right gradient, and the same bits every time.
#include "tests/op_cases.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "tests/doubles.h"
#include "tests/gradient_check.h"

namespace clip {
namespace {

std::string case_name(const testing::TestParamInfo<OpCase>& info) { return info.param.name; }

class EveryOp : public testing::TestWithParam<OpCase> {};

TEST_P(EveryOp, HasTheGradientThatCentralDifferencesShow) {
  const OpCase& op = GetParam();
  const auto inputs = random_inputs(op, op.small, DType::kF64, cpu_backend(), 3);
  std::vector<std::string> names;
  for (size_t i = 0; i < inputs.size(); ++i) names.push_back(concat(op.name, ", input ", i));
  EXPECT_EQ(check_gradients([&] { return op.run(inputs); }, inputs, names), "");
}

/// Bytes of all outputs and all gradients of one run.
std::vector<std::vector<char>> bits_of_run(const OpCase& op, DType dtype) {
  std::vector<std::vector<char>> bits;
  const auto inputs = random_inputs(op, op.small, dtype, cpu_backend(), 3);
  for (const Tensor& result : outputs_and_gradients(op, inputs)) {
    bits.emplace_back(static_cast<size_t>(result.bytes()));
    result.copy_to_host(bits.back().data());
  }
  return bits;
}

TEST_P(EveryOp, GivesTheSameBitsTwiceAndOnOneThreadOrThree) {
  const OpCase& op = GetParam();
  const int threads = omp_get_max_threads();
  for (DType dtype : {DType::kF64, DType::kF32, DType::kBF16}) {
    omp_set_num_threads(1);
    const auto one = bits_of_run(op, dtype);
    for (const int count : {2, 3, 3}) {
      omp_set_num_threads(count);
      EXPECT_EQ(one, bits_of_run(op, dtype)) << dtype << " on " << count << " threads";
    }
  }
  omp_set_num_threads(threads);
}

/// Outputs and gradients against those in F64 from the same numbers; errors are relative to the
/// largest number of a tensor, or to 1.
void expect_agreement_with_f64(const OpCase& op, DType dtype, double tolerance) {
  const auto inputs = random_inputs(op, op.small, dtype, cpu_backend(), 3);
  const auto narrow = outputs_and_gradients(op, inputs);
  const auto wide = outputs_and_gradients(op, in_f64(inputs));
  ASSERT_EQ(narrow.size(), wide.size());
  for (size_t i = 0; i < wide.size(); ++i) {
    const auto actual = to_doubles(narrow[i]), expected = to_doubles(wide[i]);
    double largest = 1, error = 0;
    for (size_t j = 0; j < expected.size(); ++j) {
      largest = std::max(largest, std::abs(expected[j]));
      const double difference = std::abs(expected[j] - actual[j]);
      error = difference <= error ? error : difference;  // a NaN stays
    }
    EXPECT_LE(error, tolerance * largest) << dtype << ", result " << i;
  }
}

TEST_P(EveryOp, AgreesInF32WithF64) {
  expect_agreement_with_f64(GetParam(), DType::kF32, 1e-5);  // tens of roundings of 6e-8
}

TEST_P(EveryOp, AgreesInBF16WithF64) {
  // What is stored is rounded by up to 2^-8 of itself: results, and a tensor on the way to them (a
  // sum before its norm, an activation before its product, y in attention's gradient).
  expect_agreement_with_f64(GetParam(), DType::kBF16, 2 * 0x1p-8);
}

TEST_P(EveryOp, KeepsParametersGradientsAndFeaturesInF32BesideBF16) {
  const OpCase& op = GetParam();
  const auto inputs = random_inputs(op, op.small, DType::kBF16, cpu_backend(), 3);
  outputs_and_gradients(op, inputs);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const bool activation = static_cast<int64_t>(i) < op.activations;
    if (!inputs[i].has_grad()) continue;  // not used, as the norm where the sum alone is
    EXPECT_EQ(inputs[i].grad().dtype(), activation ? DType::kBF16 : DType::kF32) << "input " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, EveryOp, testing::ValuesIn(op_cases()), case_name);

}  // namespace
}  // namespace clip
