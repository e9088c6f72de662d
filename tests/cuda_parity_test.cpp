// Every op and a training run, on the CPU and on the GPU (real, or simulated where the tests are
// linked with the simulator).
#include "tests/cuda_parity.h"

#include "tests/tiny_clip.h"

namespace clip {
namespace {

class EveryOpOnGpu : public OnGpu, public testing::WithParamInterface<OpCase> {};

std::vector<Tensor> run_on(Backend& backend, const OpCase& op, DType dtype) {
  return outputs_and_gradients(op, random_inputs(op, op.small, dtype, backend, 3));
}

void expect_the_cpus_results(Backend& gpu, const OpCase& op, DType dtype, double tolerance) {
  const auto expected = run_on(cpu_backend(), op, dtype), actual = run_on(gpu, op, dtype);
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(actual[i].backend().device().kind, Device::Kind::kCuda);
    ASSERT_EQ(actual[i].dtype(), expected[i].dtype());
    expect_close(actual[i], expected[i], tolerance, concat(dtype, " result ", i));
  }
}

TEST_P(EveryOpOnGpu, GivesTheOutputsAndGradientsOfTheCpu) {
  expect_the_cpus_results(gpu(), GetParam(), DType::kF32, 1e-5);
}

TEST_P(EveryOpOnGpu, GivesTheOutputsAndGradientsOfTheCpuInBF16) {
  // Both round what they store by up to 2^-8, seldom to different numbers; op_cases_test holds the
  // CPU to the same bound from F64.
  expect_the_cpus_results(gpu(), GetParam(), DType::kBF16, 2 * 0x1p-8);
}

TEST_P(EveryOpOnGpu, GivesTheSameBitsTwice) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto once = run_on(gpu(), GetParam(), dtype), again = run_on(gpu(), GetParam(), dtype);
    for (size_t i = 0; i < once.size(); ++i)
      EXPECT_EQ(to_doubles(once[i]), to_doubles(again[i])) << dtype << " result " << i;
  }
}

std::string case_name(const testing::TestParamInfo<OpCase>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Ops, EveryOpOnGpu, testing::ValuesIn(op_cases()), case_name);

/// Losses, gradient norms and the last logit_scale of 20 steps.
struct Signature {
  std::vector<double> losses, norms;
  double logit_scale;
};

Signature train(Backend& backend, DType dtype) {
  ClipModel model(tiny_config(), backend, dtype);
  Signature signature;
  for (const StepMetrics& step : tiny_training(model)) {
    signature.losses.push_back(step.loss);
    signature.norms.push_back(step.gradient_norm);
  }
  signature.logit_scale = model.clip.logit_scale.value().item();
  return signature;
}

using TrainingOnGpu = OnGpu;

TEST_F(TrainingOnGpu, FollowsTheCpuForTwentySteps) {
  const Signature expected = train(cpu_backend(), DType::kF32), actual = train(gpu(), DType::kF32);
  for (size_t step = 0; step < expected.losses.size(); ++step) {
    // Roundings grow along the steps; ClipReference holds the CPU itself to the same bounds.
    EXPECT_NEAR(actual.losses[step], expected.losses[step], 1e-4) << "step " << step;
    EXPECT_NEAR(actual.norms[step], expected.norms[step], 1e-3 * expected.norms[step])
        << "step " << step;
  }
  EXPECT_NEAR(actual.logit_scale, expected.logit_scale, 1e-4);
}

TEST_F(TrainingOnGpu, InBF16FollowsTheCpusF32) {
  const Signature expected = train(cpu_backend(), DType::kF32), actual = train(gpu(), DType::kBF16);
  for (size_t step = 0; step < expected.losses.size(); ++step)  // MixedPrecision: why 2e-2
    EXPECT_NEAR(actual.losses[step], expected.losses[step], 2e-2) << "step " << step;
}

TEST_F(TrainingOnGpu, GivesTheSameBitsTwice) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Signature once = train(gpu(), dtype), again = train(gpu(), dtype);
    EXPECT_EQ(once.losses, again.losses) << dtype;
    EXPECT_EQ(once.norms, again.norms) << dtype;
  }
}

TEST(MakeCudaBackend, NamesTheDeviceThatIsNotThere) {
  for (const int index : {-1, 1000}) {
    try {
      make_cuda_backend(index);
      ADD_FAILURE() << "cuda:" << index << " was made";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(concat("cuda:", index)), std::string::npos)
          << error.what();
    }
  }
}

}  // namespace

}  // namespace clip
