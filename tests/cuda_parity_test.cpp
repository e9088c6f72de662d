// Every op and a training run, on the CPU and on the GPU (real, or simulated where the tests are
// linked with the simulator).
#include "tests/cuda_parity.h"

#include "autograd/optimizer.h"
#include "models/training.h"
#include "tests/reference_values.h"
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
    signature.losses.push_back(metrics.loss);
    signature.norms.push_back(metrics.gradient_norm);
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
    trained.losses.push_back(train_step(model, optimizer, {batch}, 1e-3, *comm).loss);
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
