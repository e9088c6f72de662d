// Every op and a training run, on the CPU and on the GPU (real, or simulated where the tests are
// linked with the simulator).
#include "tests/cuda_parity.h"

#include <algorithm>
#include <cmath>

#include "autograd/optimizer.h"
#include "models/training.h"
#include "tests/reference_values.h"
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

// Along a random direction through each input, by the better of two steps; a wrong gradient is so by
// both. One of 1e-2 leaves an error of some 1e-4 (third derivatives times its square) and roundings of
// 1e-7 over 2e-2 less, but crosses the kinks of ReLUs; one of 2e-4 crosses few, but divides the
// roundings of a large loss by itself.
TEST_P(EveryOpOnGpu, HasTheGradientThatCentralDifferencesShow) {
  constexpr double kTolerance = 3e-3;
  const OpCase& op = GetParam();
  const auto inputs = random_inputs(op, op.small, DType::kF32, gpu(), 3);
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
    const auto error_with = [&](double step) {
      const double numeric = (at(step) - at(-step)) / (2 * step);
      return std::abs(analytic - numeric) / std::max(1.0, std::abs(numeric));
    };
    EXPECT_LE(std::min(error_with(1e-2), error_with(2e-4)), kTolerance)
        << op.name << ", input " << i;
    x.copy_from_host(original.data());
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
    signature.losses.push_back(step.loss());
    signature.norms.push_back(step.gradient_norm());
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

/// Three steps of a ResNet.
struct Trained {
  std::vector<double> losses, running;
};

Trained train_resnet(Backend& backend, DType dtype) {
  ClipModel model(tiny_resnet_config(), backend, dtype);
  randomize(model.parameters);
  model.parameters.round_values();
  AdamW optimizer(model.parameters, {.max_norm = 1.0});
  const auto comm = make_single_communicator();
  Trained trained;
  for (int64_t step = 0; step < 3; ++step) {
    const Batch batch{tiny_images(step, backend, 64),
                      pack_tokens(tiny_captions(step, 64), backend)};
    trained.losses.push_back(train_step(model, optimizer, {batch}, 1e-3, *comm).loss());
  }
  trained.running = to_doubles(model.parameters.buffer_values());
  return trained;
}

TEST_F(TrainingOnGpu, OfAResNetFollowsTheCpu) {
  const Trained expected = train_resnet(cpu_backend(), DType::kF32);
  const auto compare = [&](DType dtype, double tolerance) {
    const Trained actual = train_resnet(gpu(), dtype);
    expect_near(actual.losses, expected.losses, tolerance);
    expect_near(actual.running, expected.running, tolerance);
  };
  compare(DType::kF32, 1e-4);  // roundings of 6e-8 grow along three steps
  // Activations keep 8 bits, and a dozen layers add their roundings of 2^-9.
  compare(DType::kBF16, 3e-2);
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
