// The linear probe's optimum against scikit-learn's, its gradient against differences, its sweep.
#include "models/logistic_regression.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/backend.h"
#include "engine/random.h"
#include "tests/error_message.h"
#include "tests/reference_values.h"

namespace clip {
namespace {

using Labels = std::vector<int64_t>;

constexpr int64_t kWidth = 5;

struct Samples {
  Tensor features;  // F64
  Labels labels;
};

Samples draw(int64_t classes, int64_t count) {
  Random random(11, random_stream(concat(classes, " classes")));
  Labels labels;
  std::vector<double> rows;
  for (int64_t i = 0; i < count; ++i) {
    labels.push_back(random.below(classes));
    for (int64_t c = 0; c < kWidth; ++c)
      rows.push_back(random.uniform(-2, 2) + (c == labels.back() ? 1 : 0));
  }
  return {Tensor::from<double>(cpu_backend(), {count, kWidth}, rows), labels};
}

std::vector<double> parameters_of(const LinearClassifier& classifier) {
  std::vector<double> all = classifier.weight.to_vector<double>();
  all.insert(all.end(), classifier.bias.begin(), classifier.bias.end());
  return all;
}

/// Any constant may be added to all biases.
std::vector<double> centred(std::vector<double> bias) {
  double sum = 0;
  for (const double value : bias) sum += value;
  for (double& value : bias) value -= sum / static_cast<double>(bias.size());
  return bias;
}

/// scikit-learn's form: of two classes one vector.
std::vector<double> as_scikit_has_them(const LinearClassifier& classifier) {
  std::vector<double> weight = classifier.weight.to_vector<double>(), bias = classifier.bias;
  if (bias.size() == 2) {
    for (size_t c = 0; c < kWidth; ++c) weight[c] = weight[kWidth + c] - weight[c];
    weight.resize(kWidth);
    bias = {bias[1] - bias[0]};
  } else {
    bias = centred(bias);
  }
  weight.insert(weight.end(), bias.begin(), bias.end());
  return weight;
}

/// Every number within `distance` of its like, which no NaN is.
void expect_within(double distance, const std::vector<double>& a, const std::vector<double>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], distance) << "at " << i;
}

TEST(LogisticRegression, FindsTheOptimumOfScikitLearn) {
  const nlohmann::json cases = reference_values("logistic_reference.json");
  ASSERT_EQ(cases.size(), 9u);
  for (const nlohmann::json& reference : cases) {
    SCOPED_TRACE(reference.dump());
    const int64_t classes = reference["classes"];
    const Samples samples = draw(classes, 20 * classes);
    LogisticOptions options{.lambda = 1 / reference["C"].get<double>(), .tolerance = 1e-11};
    std::vector<double> expected = reference["weight"], bias = reference["bias"];
    if (classes > 2) bias = centred(bias);
    expected.insert(expected.end(), bias.begin(), bias.end());
    const auto fit = [&](const Tensor& features) {
      return as_scikit_has_them(
          fit_logistic_regression(features, samples.labels, classes, options).classifier);
    };
    // Near the optimum the objective's 16 digits tell apart steps of 1e-8, by curvatures of 1e-2.
    expect_within(1e-6, fit(samples.features), expected);
    // In F32 steps of 1e-4.
    options.tolerance = 1e-6;
    expect_within(1e-3, fit(samples.features.as_dtype(DType::kF32)), expected);
  }
}

TEST(LogisticRegression, TheGradientIsThatOfCentralDifferences) {
  for (const int64_t classes : {2, 3}) {
    const Samples samples = draw(classes, 31);
    LogisticObjective objective(samples.features, samples.labels, classes, 0.7);
    const auto count = static_cast<size_t>(objective.parameters());
    std::vector<double> x(count), gradient(count), ignored(count);
    Random random(4, 0);
    for (double& value : x) value = random.uniform(-1, 1);
    objective(x.data(), gradient.data());
    constexpr double kStep = 1e-6;
    for (size_t i = 0; i < count; ++i) {
      std::vector<double> high = x, low = x;
      high[i] += kStep;
      low[i] -= kStep;
      const double difference =
          (objective(high.data(), ignored.data()) - objective(low.data(), ignored.data())) /
          (2 * kStep);
      EXPECT_NEAR(gradient[i], difference, 1e-8) << i;  // roundings of a value of 1 / 2e-6
    }
  }
}

TEST(LogisticRegression, TheObjectiveIsTheMeanCrossEntropyAndThePenaltysShare) {
  const Tensor x = Tensor::from<double>(cpu_backend(), {2, 1}, {1, -1});
  LogisticObjective objective(x, {0, 2}, 3, 6);
  std::vector<double> gradient(6);
  const std::vector<double> zero(6, 0), some = {1, 0, 0, 0, 0, 0};
  EXPECT_NEAR(objective(zero.data(), gradient.data()), std::log(3), 1e-15);
  // Logits 1, 0, 0 and -1, 0, 0; 6/2 of 1 squared, over two rows.
  const double expected =
      (std::log(std::exp(1) + 2) - 1 + std::log(std::exp(-1) + 2)) / 2 + 6.0 / 2 / 2;
  EXPECT_NEAR(objective(some.data(), gradient.data()), expected, 1e-14);
}

TEST(LogisticRegression, HasTheSameBitsOnAnyNumberOfThreadsAcrossTiles) {
  const Samples samples = draw(3, 5000);
  const Tensor features = samples.features.as_dtype(DType::kF32);
  const auto fit = [&](int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    const LogisticFit result = fit_logistic_regression(features, samples.labels, 3, {.lambda = 10});
    omp_set_num_threads(before);
    return parameters_of(result.classifier);
  };
  const std::vector<double> alone = fit(1);
  EXPECT_EQ(fit(2), alone);
  EXPECT_EQ(fit(3), alone);
}

TEST(LogisticRegression, TilesGiveWhatTheWholeGives) {
  // Each sample three times is each once with a third of the penalty; 4500 rows are three tiles.
  const Samples samples = draw(3, 1500);
  std::vector<double> rows = samples.features.to_vector<double>(), all;
  Labels labels;
  for (int64_t i = 0; i < 3; ++i) {
    all.insert(all.end(), rows.begin(), rows.end());
    labels.insert(labels.end(), samples.labels.begin(), samples.labels.end());
  }
  const Tensor features = Tensor::from<double>(cpu_backend(), {4500, kWidth}, all);
  const auto once = fit_logistic_regression(samples.features, samples.labels, 3,
                                            {.lambda = 5, .tolerance = 1e-10});
  const auto thrice =
      fit_logistic_regression(features, labels, 3, {.lambda = 15, .tolerance = 1e-10});
  // As above, with a curvature above 1e-2.
  expect_within(1e-6, parameters_of(once.classifier), parameters_of(thrice.classifier));
}

TEST(LogisticRegression, SeparableDataAreSeparatedAtAnyPenalty) {
  const Tensor x = Tensor::from<float>(cpu_backend(), {4, 1}, {-2, -1, 1, 2});
  for (const double lambda : {0.0, 1e-6, 1.0, 100.0}) {
    const LogisticFit fit = fit_logistic_regression(x, {0, 0, 1, 1}, 2, {.lambda = lambda});
    const auto ranked = fit.classifier.ranked(x, 1);
    EXPECT_EQ(ranked, (std::vector<Labels>{{0}, {0}, {1}, {1}})) << lambda;
    for (const double value : parameters_of(fit.classifier)) EXPECT_TRUE(std::isfinite(value));
  }
}

TEST(LogisticRegression, StopsAfterTheIterationsItIsGiven) {
  const Samples samples = draw(3, 200);
  const auto fit = [&](int64_t iterations) {
    return fit_logistic_regression(
        samples.features, samples.labels, 3,
        {.lambda = 1e-3, .max_iterations = iterations, .tolerance = 1e-6});
  };
  EXPECT_FALSE(fit(3).converged);
  EXPECT_EQ(fit(3).iterations, 3);
  EXPECT_TRUE(fit(1000).converged);
  EXPECT_LT(fit(1000).iterations, 200);
}

TEST(LogisticRegression, RanksClassesWithTheLowerOneFirstWhereTheyTie) {
  LinearClassifier classifier{Tensor::from<double>(cpu_backend(), {4, 1}, {1, 0, 1, 3}),
                              {0, 0.5, 0, -1}};
  const Tensor x = Tensor::from<double>(cpu_backend(), {2, 1}, {1, -1});
  EXPECT_EQ(classifier.ranked(x, 3), (std::vector<Labels>{{3, 0, 2}, {1, 0, 2}}));
  EXPECT_EQ(classifier.ranked(x, 9)[0], (Labels{3, 0, 2, 1}));
}

TEST(LogisticRegression, RefusesWhatItCannotFit) {
  const Tensor x = Tensor::from<float>(cpu_backend(), {2, 1}, {1, 2});
  const auto refusal = [](const Tensor& features, const Labels& labels, int64_t classes,
                          double lambda = 1) {
    return error_message(
        [&] { fit_logistic_regression(features, labels, classes, {.lambda = lambda}); });
  };
  EXPECT_TRUE(says(refusal(x, {0, 0}, 1), "two classes or more, got 1"));
  EXPECT_TRUE(says(refusal(x, {0}, 2), "2 rows and 1 labels"));
  EXPECT_TRUE(says(refusal(x, {0, 2}, 2), "labels must be 0 to 1, got 2"));
  EXPECT_TRUE(says(refusal(x, {0, 1}, 2, -1), "lambda", "-1"));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(says(refusal(Tensor::from<float>(cpu_backend(), {2, 1}, {1, nan}), {0, 1}, 2),
                   "NaN or infinite"));
}

/// A sweep whose accuracy has its peak at 10^(peak / 8).
std::vector<SweepStep> sweep_with_peak_at(int peak) {
  return sweep_lambda(
      [&](double lambda) { return 1 - std::abs(std::log10(lambda) - peak / 8.0) / 20; });
}

TEST(LambdaSweep, FindsThePeakToAnEighthOfADecadeInFifteenTrials) {
  for (int peak = -48; peak <= 48; ++peak) {
    const std::vector<SweepStep> sweep = sweep_with_peak_at(peak);
    EXPECT_NEAR(std::log10(best_of(sweep).lambda), peak / 8.0, 1e-9);
    EXPECT_LE(sweep.size(), 15u);
    EXPECT_TRUE(std::is_sorted(sweep.begin(), sweep.end(),
                               [](const auto& a, const auto& b) { return a.lambda < b.lambda; }));
  }
}

TEST(LambdaSweep, StartsWithSevenLambdasTwoDecadesApart) {
  std::vector<double> asked;
  sweep_lambda([&](double lambda) {
    asked.push_back(lambda);
    return 0.5;
  });
  ASSERT_GT(asked.size(), 7u);
  for (int i = 0; i < 7; ++i)
    EXPECT_NEAR(std::log10(asked[static_cast<size_t>(i)]), 2 * i - 6, 1e-12);
}

TEST(LambdaSweep, OfEqualAccuraciesTheLargestLambdaIsBest) {
  EXPECT_NEAR(best_of(sweep_lambda([](double) { return 0.5; })).lambda, 1e6, 1e-6);
  const auto plateau =
      sweep_lambda([](double lambda) { return lambda < 101 && lambda > 0.0099 ? 1.0 : 0.0; });
  EXPECT_NEAR(best_of(plateau).lambda, 100, 1e-9);
}

TEST(ValidationSplit, TakesAFifthOfEachClassAndIsTheSameEachTime) {
  Labels labels;
  for (int64_t i = 0; i < 100; ++i) labels.push_back(i % 3 == 0 ? 0 : 1);  // 34 and 66
  labels.insert(labels.end(), {2, 2, 3, 4, 4, 4, 4});
  const std::vector<bool> chosen = validation_split(labels);
  EXPECT_EQ(chosen, validation_split(labels));
  std::vector<int64_t> counts(5);
  for (size_t i = 0; i < labels.size(); ++i) counts[static_cast<size_t>(labels[i])] += chosen[i];
  EXPECT_EQ(counts, (Labels{6, 13, 1, 0, 1}));
  // Not the first ones of a class, which may lie together.
  EXPECT_FALSE(std::all_of(chosen.begin(), chosen.begin() + 6, [](bool c) { return c; }));
}

}  // namespace
}  // namespace clip
