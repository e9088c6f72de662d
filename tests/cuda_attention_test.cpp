// Attention of the GPU against the CPU's in F64.
#include "tests/cuda_attention_cases.h"
#include "tests/cuda_parity.h"

namespace clip {
namespace {

using CudaAttention = OnGpu;

Backend& gpu() {
  std::string why;
  return *first_gpu(&why);  // CudaAttention has seen that there is one
}

/// Largest difference, relative to the largest value expected, or to least_size if that is more.
double difference(const Doubles& actual, const Doubles& expected, double least_size) {
  double largest = 0, size = least_size;
  EXPECT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    if (actual[i] == expected[i]) continue;  // also two infinities
    if (!std::isfinite(actual[i]) || !std::isfinite(expected[i])) return INFINITY;
    largest = std::max(largest, std::abs(actual[i] - expected[i]));
    size = std::max(size, std::abs(expected[i]));
  }
  return largest / size;
}

template <class T>
void expect_agreement(const AttentionCase& c, double tolerance, double statistics_tolerance) {
  SCOPED_TRACE(describe(c));
  const AttentionResults actual = run_attention<T, T, float>(gpu(), c);
  const AttentionResults expected = run_attention<T, double, double>(cpu_backend(), c);
  EXPECT_LE(difference(actual.y, expected.y, 1e-300), tolerance) << "y";
  EXPECT_LE(difference(actual.log_sum_exp, expected.log_sum_exp, 1), statistics_tolerance)
      << "log_sum_exp";
  // dq and dk are sums of differences of terms of size 1, which cancel where there is one key.
  EXPECT_LE(difference(actual.dq, expected.dq, 1), tolerance) << "dq";
  EXPECT_LE(difference(actual.dk, expected.dk, 1), tolerance) << "dk";
  EXPECT_LE(difference(actual.dv, expected.dv, 1e-300), tolerance) << "dv";
}

// F32: a few roundings of 6e-8 in each of the sums over D and over keys; a wrong or missing term is
// at least a hundred times larger than 1e-5.
constexpr double kTolerance = 1e-5;
// BF16 rounds to 2^-9: once each for y, probabilities and gradients of scores, and for the results.
// What is rounded is at most as large as the largest result, and roundings of a sum's terms partly
// cancel, so four full roundings are enough. The log-sum-exp is made of exact inputs in F32.
constexpr double kToleranceBF16 = 4 * 0.001953125;

void expect_agreement(const AttentionCase& c) {
  expect_agreement<float>(c, kTolerance, kTolerance);
  expect_agreement<__nv_bfloat16>(c, kToleranceBF16, kTolerance);
}

TEST_F(CudaAttention, AgreesWithTheCpuForImages) {
  for (int32_t t : {1, 15, 16, 17, 50, 77, 197, 257}) {
    expect_agreement(self_attention({t}, 2, 64, Causal::kNo));
  }
}

TEST_F(CudaAttention, AgreesWithTheCpuForCausalSequences) {
  for (int32_t t : {1, 15, 16, 17, 50, 77, 197, 257}) {
    expect_agreement(self_attention({t}, 2, 64, Causal::kYes));
  }
}

TEST_F(CudaAttention, AgreesWithTheCpuForPackedText) {
  for (Causal causal : {Causal::kNo, Causal::kYes}) {
    expect_agreement(self_attention({4, 77, 1, 15, 16, 17, 50, 8, 31}, 2, 64, causal));
  }
}

TEST_F(CudaAttention, AgreesWithTheCpuForOneQueryRowPerSequence) {
  expect_agreement({{1, 1, 1, 1}, {50, 1, 17, 257}, 2, 64});
  expect_agreement({{2, 1, 3}, {50, 77, 18}, 2, 64});
}

TEST_F(CudaAttention, AgreesForMoreQueriesThanKeysAndFewer) {
  for (Causal causal : {Causal::kNo, Causal::kYes}) {
    expect_agreement({{100, 5, 30}, {7, 60, 30}, 2, 64, causal});
  }
}

TEST_F(CudaAttention, AcceptsAnyHeadSize) {
  for (int64_t d : {1, 7, 32, 80, 129, 300}) {
    expect_agreement(self_attention({5, 50, 33}, 2, d, Causal::kNo));
    expect_agreement(self_attention({5, 50, 33}, 2, d, Causal::kYes));
  }
}

TEST_F(CudaAttention, AcceptsColumnsThatStartAnywhere) {
  AttentionCase c = self_attention({17, 40}, 2, 64, Causal::kYes);
  c.margin = 3;
  expect_agreement(c);
}

TEST_F(CudaAttention, AddsToGradientsWhenAsked) {
  for (Causal causal : {Causal::kNo, Causal::kYes}) {
    AttentionCase c = self_attention({4, 77, 20}, 2, 64, causal);
    c.accumulate = Accumulate::kYes;
    expect_agreement(c);
  }
}

TEST_F(CudaAttention, AcceptsEmptySequences) {
  for (Accumulate accumulate : {Accumulate::kNo, Accumulate::kYes}) {
    expect_agreement({{0, 5, 0, 0, 9, 0}, {0, 5, 0, 0, 9, 0}, 2, 64, Causal::kYes, accumulate});
    expect_agreement({{0, 4, 3}, {6, 0, 5}, 2, 64, Causal::kNo, accumulate});
    expect_agreement({{0, 0}, {3, 4}, 2, 64, Causal::kNo, accumulate});
    expect_agreement({{3, 4}, {0, 0}, 2, 64, Causal::kNo, accumulate});
  }
}

// More rows than shared memory holds for the tensor cores' kernels.
TEST_F(CudaAttention, AcceptsSequencesOfAnyLength) {
  expect_agreement({{3}, {700}, 1, 64});
  expect_agreement({{700}, {3}, 1, 64});
}

// Scores reach 1e4, where F32 has steps of 1e-3, and probabilities of close scores are known to about
// that. Where one key takes all, dq and dk are measured against the terms they are sums of.
TEST_F(CudaAttention, LargeScoresNeitherOverflowNorVanish) {
  for (Causal causal : {Causal::kNo, Causal::kYes}) {
    AttentionCase c = self_attention({65, 8}, 2, 64, causal);
    c.score_size = 1e4;
    SCOPED_TRACE(describe(c));
    const auto check = [&](const AttentionResults& actual, const AttentionResults& expected,
                           double tolerance) {
      EXPECT_LE(difference(actual.y, expected.y, 1), tolerance) << "y";
      EXPECT_LE(difference(actual.log_sum_exp, expected.log_sum_exp, 1), kTolerance);
      EXPECT_LE(difference(actual.dq, expected.dq, 1), tolerance) << "dq";
      EXPECT_LE(difference(actual.dk, expected.dk, c.score_size), tolerance) << "dk";
      EXPECT_LE(difference(actual.dv, expected.dv, 1), tolerance) << "dv";
    };
    check(run_attention<float, float, float>(gpu(), c),
          run_attention<float, double, double>(cpu_backend(), c), 5e-3);
    check(run_attention<__nv_bfloat16, __nv_bfloat16, float>(gpu(), c),
          run_attention<__nv_bfloat16, double, double>(cpu_backend(), c), 5e-3 + kToleranceBF16);
  }
}

template <class T>
void expect_not_a_number(const AttentionCase& c) {
  const AttentionResults results = run_attention<T, T, float>(gpu(), c);
  for (double value : results.y) EXPECT_TRUE(std::isnan(value));
  for (double value : results.dq) EXPECT_TRUE(std::isnan(value));
}

TEST_F(CudaAttention, ReportsNotANumberInsteadOfHidingIt) {
  AttentionCase c = self_attention({20}, 1, 64, Causal::kNo);
  c.score_size = std::nan("");
  expect_not_a_number<float>(c);
  expect_not_a_number<__nv_bfloat16>(c);
}

}  // namespace
}  // namespace clip
