// The AdamW kernel against a scalar transcription of its definition.
#include <algorithm>

#include "tests/kernel_checks.h"

namespace clip {
namespace {

/// Three blocks: decayed, not decayed, and one whose second half is padding.
constexpr int64_t kElements = 3 * kParameterBlock;
constexpr int64_t kUsed = kElements - kParameterBlock / 2;
const std::vector<uint8_t> kDecays = {1, 0, 1};

Doubles padded(int64_t seed) {
  Doubles values = random_values(kElements, static_cast<unsigned>(seed));
  std::fill(values.begin() + kUsed, values.end(), 0.0);
  return values;
}

/// The gradients' norm in these tests, chosen so that AdamW multiplies them with max_norm itself.
constexpr double kNorm = 1 - 1e-6;

/// The scalars of update `step`, counted from 1.
Tensor scalars_of(int64_t step, const AdamWOptions& options) {
  Doubles before(kAdamWScalars);
  before[kUpdates] = static_cast<double>(step - 1);
  Tensor scalars = Tensor::from<double>(cpu_backend(), {kAdamWScalars}, before);
  cpu_backend().adamw_scalars(scalars, Tensor::from<double>(cpu_backend(), {}, {kNorm * kNorm}),
                              options);
  return scalars;
}

struct Reference {
  Doubles p, m, v;

  void step(int64_t step, const Doubles& gradients, const AdamWOptions& o) {
    const auto t = static_cast<double>(step);
    const double factor = o.max_norm > 0 ? o.max_norm : 1;
    for (size_t i = 0; i < p.size(); ++i) {
      const double g = gradients[i] * factor;
      if (kDecays[i / kParameterBlock] != 0) p[i] *= 1 - o.lr * o.weight_decay;
      m[i] = o.beta1 * m[i] + (1 - o.beta1) * g;
      v[i] = o.beta2 * v[i] + (1 - o.beta2) * g * g;
      const double m_hat = m[i] / (1 - std::pow(o.beta1, t));
      const double v_hat = v[i] / (1 - std::pow(o.beta2, t));
      p[i] -= o.lr * m_hat / (std::sqrt(v_hat) + o.eps);
    }
  }
};

template <class T>
void check_steps(double tolerance) {
  const Tensor decays = Tensor::from(cpu_backend(), {3}, kDecays);
  Reference reference{padded(1), Doubles(kElements), Doubles(kElements)};
  Tensor p = tensor_of<T>({kElements}, reference.p), m = tensor_of<T>({kElements}, reference.m),
         v = tensor_of<T>({kElements}, reference.v), no_copy;
  for (int64_t step = 1; step <= 5; ++step) {
    const Doubles gradients = padded(10 + step);
    const AdamWOptions options{.lr = 0.01 * static_cast<double>(step),
                               .beta1 = 0.9,
                               .beta2 = 0.98,
                               .eps = 1e-6,
                               .weight_decay = 0.2,
                               .max_norm = step % 2 == 0 ? 0.3 : 0.0};
    const Tensor g = tensor_of<T>({kElements}, gradients);
    cpu_backend().adamw(p, no_copy, m, v, g, decays, scalars_of(step, options), options);
    reference.step(step, gradients, options);
    expect_near(p, reference.p, tolerance, "values");
    expect_near(m, reference.m, tolerance, "first moments");
    expect_near(v, reference.v, tolerance, "second moments");
    expect_near(g, gradients, 0, "gradients");  // left as they are
  }
  const Doubles values = to_doubles(p);
  for (size_t i = static_cast<size_t>(kUsed); i < values.size(); ++i) {
    ASSERT_EQ(values[i], 0.0) << "padding element " << i << " must stay zero";
  }
}

TEST(AdamWKernel, MatchesItsDefinitionOverSeveralStepsAndLeavesPaddingZero) {
  // Values and updates are of the order of 1 and round a handful of times per step.
  check_steps<float>(roundings<float>(20));
  check_steps<double>(roundings<double>(20));
}

TEST(AdamWKernel, FirstStepMovesEveryValueByTheLearningRate) {
  const Tensor decays = Tensor::from(cpu_backend(), {1}, std::vector<uint8_t>{0});
  const AdamWOptions options{.lr = 0.5, .eps = 0};
  const Doubles zeros(kParameterBlock), gradients(kParameterBlock, 3.0);
  Tensor p = tensor_of<double>({kParameterBlock}, zeros),
         m = tensor_of<double>({kParameterBlock}, zeros),
         v = tensor_of<double>({kParameterBlock}, zeros), no_copy;
  cpu_backend().adamw(p, no_copy, m, v, tensor_of<double>({kParameterBlock}, gradients), decays,
                      scalars_of(1, options), options);
  expect_near(p, Doubles(kParameterBlock, -0.5), 1e-12, "values");
}

TEST(AdamWKernel, RoundsTheNewValuesIntoTheirBF16Copy) {
  const Tensor decays = Tensor::from(cpu_backend(), {3}, kDecays);
  const AdamWOptions options{.lr = 0.01};
  Tensor p = tensor_of<float>({kElements}, padded(1)), m = tensor_of<float>({kElements}, padded(2)),
         v = tensor_of<float>({kElements}, random_values(kElements, 3, 0, 2));
  Tensor copy = Tensor::empty(cpu_backend(), {kElements}, DType::kBF16),
         expected = Tensor::like(copy);
  cpu_backend().adamw(p, copy, m, v, tensor_of<float>({kElements}, padded(4)), decays,
                      scalars_of(3, options), options);
  cpu_backend().convert(expected, p);
  EXPECT_EQ(to_doubles(copy), to_doubles(expected));
}

TEST(AdamWKernel, ASkippedStepLeavesEverything) {
  for (const double sum :
       {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    const AdamWOptions options{.lr = 0.5, .max_norm = 1};
    Tensor scalars = scalars_of(4, options), no_copy;
    cpu_backend().adamw_scalars(scalars, Tensor::from<double>(cpu_backend(), {}, {sum}), options);
    const Doubles values(kParameterBlock, 1.0);
    Tensor p = tensor_of<double>({kParameterBlock}, values), m = p.clone(), v = p.clone();
    cpu_backend().adamw(p, no_copy, m, v, p.clone(), Tensor::zeros(cpu_backend(), {1}, DType::kU8),
                        scalars, options);
    for (const Tensor& tensor : {p, m, v}) EXPECT_EQ(to_doubles(tensor), values);
    EXPECT_EQ(to_doubles(scalars)[kUpdates], 4);
    EXPECT_EQ(to_doubles(scalars)[kSkips], 1);
  }
}

TEST(AdamWKernel, GivesTheSameBitsForAnyThreadCount) {
  const Tensor decays = Tensor::from(cpu_backend(), {3}, kDecays);
  const AdamWOptions options{.lr = 0.01};
  expect_same_bits_for_any_thread_count([&] {
    Tensor p = tensor_of<float>({kElements}, padded(1)),
           m = tensor_of<float>({kElements}, padded(2)),
           v = tensor_of<float>({kElements}, random_values(kElements, 3, 0, 2)), no_copy;
    cpu_backend().adamw(p, no_copy, m, v, tensor_of<float>({kElements}, padded(4)), decays,
                        scalars_of(3, options), options);
    return std::vector<Tensor>{p, m, v};
  });
}

}  // namespace
}  // namespace clip
