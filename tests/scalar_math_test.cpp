#include "engine/scalar_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "engine/cpu/bfloat16.h"

namespace clip {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// Distance of an F32 result from the true value, in units of the last place of that value.
double ulps(float result, double truth) {
  const float rounded = std::fabs(static_cast<float>(truth));
  const double unit =
      static_cast<double>(std::nextafter(rounded, kInfinity)) - static_cast<double>(rounded);
  return std::fabs(static_cast<double>(result) - truth) / unit;
}

/// The largest error of f against `truth` over about a million values of [low, high].
template <class F, class Truth>
double largest_error(float low, float high, const F& f, const Truth& truth) {
  double largest = 0;
  for (int64_t i = 0; i <= 1'000'000; ++i) {
    const auto x = static_cast<float>(low + (high - low) * (static_cast<float>(i) * 1e-6f));
    const double error = ulps(f(x), truth(static_cast<double>(x)));
    if (!(error <= largest)) largest = error;
  }
  return largest;
}

TEST(Exponential, IsWithinTwoUlpOfTheTrueValue) {
  const auto f = [](float x) { return exponential(x); };
  const auto truth = [](double x) { return std::exp(x); };
  EXPECT_LE(largest_error(-87.3f, 88.72f, f, truth), 2.0);
  EXPECT_LE(largest_error(-1.0f, 1.0f, f, truth), 2.0);
}

TEST(Exponential, KeepsItsRangeAtBothEnds) {
  EXPECT_EQ(exponential(0.0f), 1.0f);
  EXPECT_EQ(exponential(-kInfinity), 0.0f);
  EXPECT_EQ(exponential(-1e30f), 0.0f);
  EXPECT_EQ(exponential(-87.4f), 0.0f);
  EXPECT_GT(exponential(-87.29f), 0.0f);
  EXPECT_LT(exponential(88.72f), kInfinity);
  EXPECT_EQ(exponential(88.73f), kInfinity);
  EXPECT_EQ(exponential(1e30f), kInfinity);
  EXPECT_EQ(exponential(kInfinity), kInfinity);
}

TEST(Sigmoid, IsWithinThreeUlpOfTheTrueValueAndKeepsItsRangeAtBothEnds) {
  const auto f = [](float x) { return sigmoid(x); };
  const auto truth = [](double x) { return 1 / (1 + std::exp(-x)); };
  EXPECT_LE(largest_error(-87.0f, 87.0f, f, truth), 3.0);
  EXPECT_LE(largest_error(-1.0f, 1.0f, f, truth), 3.0);
  EXPECT_LE(largest_error(-88.37f, -87.0f, f, truth), 3.0);
  for (const float x : {88.39f, 100.0f, 1e30f, kInfinity}) {
    EXPECT_EQ(sigmoid(x), 1.0f) << x;
    EXPECT_EQ(sigmoid(-x), 0.0f) << x;
  }
}

TEST(LogOnePlus, IsWithinTwoUlpOfTheTrueValue) {
  const auto f = [](float x) { return log_one_plus(x); };
  const auto truth = [](double x) { return std::log1p(x); };
  EXPECT_LE(largest_error(0.0f, 1.0f, f, truth), 2.0);
  EXPECT_LE(largest_error(1e-30f, 1e-6f, f, truth), 2.0);
}

TEST(Softplus, IsWithinFourUlpOfTheTrueValue) {
  const auto f = [](float x) { return softplus(x); };
  const auto truth = [](double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); };
  // Two of the exponential, two of the logarithm.
  EXPECT_LE(largest_error(-80.0f, 80.0f, f, truth), 4.0);
  EXPECT_LE(largest_error(-1.0f, 1.0f, f, truth), 4.0);
}

TEST(Softplus, KeepsItsRangeAtBothEndsAndANan) {
  EXPECT_EQ(softplus(-kInfinity), 0.0f);
  EXPECT_EQ(softplus(-1e30f), 0.0f);
  EXPECT_EQ(softplus(1e30f), 1e30f);
  EXPECT_EQ(softplus(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(softplus(kNan)));
}

TEST(ErrorFunction, IsWithinThreeUlpOfTheTrueValue) {
  const auto f = [](float x) { return error_function(x); };
  const auto truth = [](double x) { return std::erf(x); };
  EXPECT_LE(largest_error(-6.0f, 6.0f, f, truth), 3.0);
  EXPECT_LE(largest_error(0.9f, 1.3f, f, truth), 3.0);  // where its two ranges meet
  EXPECT_LE(largest_error(1e-6f, 1e-3f, f, truth), 3.0);
}

TEST(ErrorFunction, SaturatesAtOneAndIsOdd) {
  EXPECT_EQ(error_function(0.0f), 0.0f);
  for (const float x : {4.0f, 5.0f, 20.0f, 1e30f, kInfinity}) {
    EXPECT_EQ(error_function(x), 1.0f) << x;
    EXPECT_EQ(error_function(-x), -1.0f) << x;
  }
  for (const float x : {1e-20f, 0.3f, 1.1f, 2.5f})
    EXPECT_EQ(error_function(-x), -error_function(x));
}

TEST(ScalarMath, ANanStaysOneSoThatTrainingCanSeeIt) {
  for (const float nan : {kNan, -kNan}) {
    EXPECT_TRUE(std::isnan(exponential(nan)));
    EXPECT_TRUE(std::isnan(sigmoid(nan)));
    EXPECT_TRUE(std::isnan(error_function(nan)));
    EXPECT_TRUE(std::isnan(gelu<Gelu::kQuick>(nan)));
    EXPECT_TRUE(std::isnan(gelu<Gelu::kErf>(nan)));
    EXPECT_TRUE(std::isnan(gelu_derivative<Gelu::kQuick>(nan)));
    EXPECT_TRUE(std::isnan(gelu_derivative<Gelu::kErf>(nan)));
  }
}

TEST(Gelu, IsFiniteWithRightLimitsFarOut) {
  for (const float x : {60.0f, 1e4f, 1e38f}) {
    EXPECT_EQ(gelu<Gelu::kQuick>(x), x);
    EXPECT_EQ(gelu<Gelu::kErf>(x), x);
    EXPECT_EQ(gelu<Gelu::kQuick>(-x), 0.0f);
    EXPECT_EQ(gelu<Gelu::kErf>(-x), 0.0f);
    EXPECT_EQ(gelu_derivative<Gelu::kQuick>(x), 1.0f);
    EXPECT_EQ(gelu_derivative<Gelu::kErf>(x), 1.0f);
    EXPECT_EQ(gelu_derivative<Gelu::kQuick>(-x), 0.0f);
    EXPECT_EQ(gelu_derivative<Gelu::kErf>(-x), 0.0f);
  }
}

template <Gelu kind>
void expect_derivative_matches_differences() {
  for (double x = -6; x <= 6; x += 0.01) {
    const double difference = (gelu<kind>(x + 1e-5) - gelu<kind>(x - 1e-5)) / 2e-5;
    EXPECT_NEAR(gelu_derivative<kind>(x), difference, 1e-9) << x;  // step² and rounding / step
    // Values of F32 are of the order of 1, and a handful of operations round.
    EXPECT_NEAR(static_cast<double>(gelu_derivative<kind>(static_cast<float>(x))), difference,
                1e-6);
  }
}

TEST(Gelu, DerivativesMatchCentralDifferences) {
  expect_derivative_matches_differences<Gelu::kQuick>();
  expect_derivative_matches_differences<Gelu::kErf>();
}

BF16 rounded(float value) {
  BF16 result;
  assign(result, value);
  return result;
}

TEST(Bfloat16, EveryNumberSurvivesTheWayThroughF32) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = to_real(BF16{static_cast<uint16_t>(bits)});
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(to_real(rounded(value)))) << bits;
    } else {
      EXPECT_EQ(rounded(value).bits, bits);
    }
  }
}

TEST(Bfloat16, RoundsToTheNearestAndTiesToEven) {
  EXPECT_EQ(to_real(rounded(1.f + 0x1p-8f)), 1.f);
  EXPECT_EQ(to_real(rounded(1.f + 0x3p-8f)), 1.f + 0x1p-6f);
  EXPECT_EQ(to_real(rounded(std::numeric_limits<float>::max())), kInfinity);
}

}  // namespace
}  // namespace clip
