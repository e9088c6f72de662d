// Every op and a training run, on the CPU and on the GPU (real, or simulated where the tests are
// linked with the simulator).
#include "tests/cuda_parity.h"

#include <cmath>

#include "autograd/optimizer.h"
#include "models/training.h"
#include "tests/tiny_clip.h"

namespace clip {
namespace {

class EveryOpOnGpu : public OnGpu, public testing::WithParamInterface<OpCase> {};

TEST_P(EveryOpOnGpu, GivesTheOutputsAndGradientsOfTheCpu) {
  const auto expected = outputs_and_gradients(GetParam(), cpu_backend());
  const auto actual = outputs_and_gradients(GetParam(), gpu());
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(actual[i].backend().device().kind, Device::Kind::kCuda);
    expect_close(actual[i], expected[i], 1e-5, concat("result ", i));
  }
}

/// <outputs, cotangents> of one run.
double objective(const OpCase& op, const std::vector<Variable>& inputs,
                 const std::vector<Tensor>& cotangents) {
  const auto outputs = op.run(inputs);
  double total = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const auto y = to_doubles(outputs[i].value()), weights = to_doubles(cotangents[i]);
    for (size_t j = 0; j < y.size(); ++j) total += y[j] * weights[j];
  }
  return total;
}

// Along a random direction through each input. In F32 a step must be large: one of 1e-2 leaves an
// error of some 1e-4 (third derivatives times its square), and roundings of 1e-7 over 2e-2 less.
TEST_P(EveryOpOnGpu, HasTheGradientThatCentralDifferencesShow) {
  constexpr double kStep = 1e-2, kTolerance = 3e-3;
  const OpCase& op = GetParam();
  const auto inputs = random_inputs(op.small, DType::kF32, gpu(), 3);
  std::vector<Tensor> cotangents;
  {
    Tape tape;
    const auto outputs = op.run(inputs);
    for (const Variable& output : outputs) {
      auto values = random_tensor(output.shape(), DType::kF32, gpu(), 5, cotangents.size())
                        .to_vector<float>();
      const double length = std::sqrt(static_cast<double>(values.size()));
      for (float& value : values) value = static_cast<float>(value / length);
      cotangents.push_back(Tensor::from<float>(gpu(), output.shape(), values));
    }
    tape.backward(outputs, cotangents);
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    Tensor x = inputs[i].value();
    const auto original = x.to_vector<float>();
    std::vector<float> gradient(original.size(), 0.0f);
    if (inputs[i].has_grad()) gradient = inputs[i].grad().to_vector<float>();
    auto direction = random_tensor(x.shape(), DType::kF32, gpu(), 7, i).to_vector<float>();
    double squares = 0, analytic = 0;
    for (const float value : direction) squares += value * value;
    for (size_t j = 0; j < direction.size(); ++j) {
      direction[j] = static_cast<float>(direction[j] / std::sqrt(squares));
      analytic += direction[j] * gradient[j];
    }
    const auto at = [&](double distance) {
      auto moved = original;
      for (size_t j = 0; j < moved.size(); ++j)
        moved[j] += static_cast<float>(distance * direction[j]);
      x.copy_from_host(moved.data());
      return objective(op, inputs, cotangents);
    };
    const double numeric = (at(kStep) - at(-kStep)) / (2 * kStep);
    x.copy_from_host(original.data());
    EXPECT_NEAR(analytic, numeric, kTolerance * std::max(1.0, std::abs(numeric)))
        << op.name << ", input " << i;
  }
}

TEST_P(EveryOpOnGpu, GivesTheSameBitsTwice) {
  const auto once = outputs_and_gradients(GetParam(), gpu());
  const auto again = outputs_and_gradients(GetParam(), gpu());
  for (size_t i = 0; i < once.size(); ++i)
    EXPECT_EQ(once[i].to_vector<float>(), again[i].to_vector<float>()) << "result " << i;
}

std::string case_name(const testing::TestParamInfo<OpCase>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Ops, EveryOpOnGpu, testing::ValuesIn(op_cases()), case_name);

/// Losses, gradient norms and the last logit_scale of 20 steps: warm-up, cosine, decay, clipping.
struct Signature {
  std::vector<double> losses, norms;
  double logit_scale;
};

Signature train(Backend& backend) {
  ClipModel model(tiny_config(), backend);
  randomize(model.parameters);
  AdamW optimizer(model.parameters, {.max_norm = 1.0});
  const LearningRate lr{.lr = 3e-3, .warmup_steps = 5, .total_steps = 20};
  const auto comm = make_single_communicator();
  Signature signature;
  for (int64_t step = 0; step < 20; ++step) {
    const Batch batch{tiny_images(step, backend), pack_tokens(tiny_captions(step), backend)};
    const StepMetrics metrics = train_step(model, optimizer, {batch}, lr.at(step), *comm);
    signature.losses.push_back(metrics.loss());
    signature.norms.push_back(metrics.gradient_norm());
  }
  signature.logit_scale = model.clip.logit_scale.value().item();
  return signature;
}

using TrainingOnGpu = OnGpu;

TEST_F(TrainingOnGpu, FollowsTheCpuForTwentySteps) {
  const Signature expected = train(cpu_backend()), actual = train(gpu());
  for (size_t step = 0; step < expected.losses.size(); ++step) {
    // Roundings grow along the steps; ClipReference holds the CPU itself to the same bounds.
    EXPECT_NEAR(actual.losses[step], expected.losses[step], 1e-4) << "step " << step;
    EXPECT_NEAR(actual.norms[step], expected.norms[step], 1e-3 * expected.norms[step])
        << "step " << step;
  }
  EXPECT_NEAR(actual.logit_scale, expected.logit_scale, 1e-4);
}

TEST_F(TrainingOnGpu, GivesTheSameBitsTwice) {
  const Signature once = train(gpu()), again = train(gpu());
  EXPECT_EQ(once.losses, again.losses);
  EXPECT_EQ(once.norms, again.norms);
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
