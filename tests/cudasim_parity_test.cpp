// Ops and training in the simulator: no bit may depend on the order in which lanes and streams run.
#include "models/training.h"
#include "tests/cuda_parity.h"
#include "tests/cudasim/counts.h"
#include "tests/cudasim/options.h"
#include "tests/tiny_clip.h"

namespace clip {
namespace {

struct Orders {
  cudasim::LaneOrder lanes;
  cudasim::StreamOrder streams;
};
constexpr Orders kAscending = {cudasim::LaneOrder::kAscending, cudasim::StreamOrder::kLazy};
constexpr Orders kOthers[] = {{cudasim::LaneOrder::kDescending, cudasim::StreamOrder::kOthers},
                              {cudasim::LaneOrder::kRandom, cudasim::StreamOrder::kEager}};

/// Runs under the given orders, on a GPU of its own, and puts back those that were set.
template <class Run>
auto run_under(const Orders& orders, const Run& run) {
  const cudasim::Options before = cudasim::options();
  cudasim::options().lanes = orders.lanes;
  cudasim::options().streams = orders.streams;
  const std::unique_ptr<Backend> gpu = make_cuda_backend(0);
  auto result = run(*gpu);
  cudasim::options() = before;
  return result;
}

class EveryOpInTheSimulator : public testing::TestWithParam<OpCase> {};

TEST_P(EveryOpInTheSimulator, GivesEqualBitsInEveryOrderOfLanesAndStreams) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto bits = [dtype](Backend& gpu) {
      const auto inputs = random_inputs(GetParam(), GetParam().small, dtype, gpu, 3);
      std::vector<std::vector<double>> results;
      for (const Tensor& result : outputs_and_gradients(GetParam(), inputs))
        results.push_back(to_doubles(result));
      return results;
    };
    const auto expected = run_under(kAscending, bits);
    for (const Orders& orders : kOthers) EXPECT_EQ(run_under(orders, bits), expected) << dtype;
  }
}

std::string case_name(const testing::TestParamInfo<OpCase>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Ops, EveryOpInTheSimulator, testing::ValuesIn(op_cases()), case_name);

/// The batches of tiny_clip.h as a loader gives them.
HostBatch host_batch(int64_t step) {
  HostBatch batch;
  batch.images = tiny_images(step, cpu_backend()).to_vector<uint8_t>();
  batch.tokens = tiny_captions(step);
  return batch;
}

/// Trains for `steps` and returns the parameters; watch(step) is called before each.
std::vector<float> train(
    Backend& gpu, int64_t steps, DType dtype,
    const std::function<void(int64_t)>& watch = [](int64_t) {}) {
  const ClipConfig config = tiny_config();
  ClipModel model(config, gpu, dtype);
  randomize(model.parameters);
  AdamW optimizer(model.parameters, {.max_norm = 1.0});
  BatchUploader upload(gpu, config.vision.image_size);
  const auto comm = make_single_communicator();
  StepMetrics metrics;  // kept: a log may ask later
  for (int64_t step = 0; step < steps; ++step) {
    watch(step);
    const auto batch = upload(host_batch(step % 2), 1);
    metrics = train_step(model, optimizer, batch, 1e-3, *comm);
  }
  watch(steps);
  return model.parameters.values().to_vector<float>();
}

TEST(TrainingInTheSimulator, GivesEqualBitsInEveryOrderOfLanesAndStreams) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto values = [dtype](Backend& gpu) { return train(gpu, 3, dtype); };
    const auto expected = run_under(kAscending, values);
    for (const Orders& orders : kOthers) EXPECT_EQ(run_under(orders, values), expected) << dtype;
  }
}

TEST(TrainingInTheSimulator, NeitherWaitsNorAsksForMemoryOnceItIsUnderWay) {
  const std::unique_ptr<Backend> gpu = make_cuda_backend(0);
  std::vector<cudasim::Counts> before;
  train(*gpu, 6, DType::kBF16, [&](int64_t) { before.push_back(cudasim::counts()); });
  EXPECT_EQ(before[6].waits, before[2].waits);  // two steps make the two buffers of pictures
  EXPECT_EQ(before[6].allocations, before[4].allocations);
}

TEST(MemoryInTheSimulator, GivesFreedBlocksBackBeforeItSaysThatNoneIsLeft) {
  const cudasim::Options before = cudasim::options();
  const std::unique_ptr<Backend> gpu = make_cuda_backend(0);
  cudasim::options().memory_bytes = 64 << 20;  // the workspace of products takes its part
  for (const int64_t mib : {20, 10, 25}) {     // never the size of a freed block
    const Tensor block = Tensor::empty(*gpu, {mib << 20}, DType::kU8);
    EXPECT_TRUE(block.defined());
  }
  try {
    Tensor::empty(*gpu, {65 << 20}, DType::kU8);
    ADD_FAILURE() << "more was given than there is";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("no GPU memory left"), std::string::npos)
        << error.what();
  }
  EXPECT_TRUE(Tensor::empty(*gpu, {20 << 20}, DType::kU8).defined());  // the failure is forgotten
  cudasim::options() = before;
}

}  // namespace
}  // namespace clip
