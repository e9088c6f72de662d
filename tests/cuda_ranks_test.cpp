// Ranks with a GPU each. The program starts itself again under mpirun, where the ranks run the suite
// OnGpuRanks.
#include <map>

#include "engine/launcher.h"
#include "tests/run_command.h"
#include "tests/train_app_test.h"
#include "tests/whole_batch.h"

namespace clip {
namespace {

struct Ranks {
  std::unique_ptr<Communicator> launch = make_communicator();
  std::unique_ptr<Backend> gpu = make_cuda_backend(static_cast<int>(launch->local_rank()));
  std::unique_ptr<Communicator> comm = make_gpu_communicator(*launch, *gpu);
};

class OnGpuRanks : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    try {
      ranks_ = new Ranks;
    } catch (const Error& error) {
      if (launched_ranks() > 1) throw;
      why_ = error.what();
    }
  }
  static void TearDownTestSuite() { delete std::exchange(ranks_, nullptr); }
  void SetUp() override {
    if (ranks_ == nullptr) GTEST_SKIP() << why_;
  }

  static Backend& gpu() { return *ranks_->gpu; }
  static Communicator& comm() { return *ranks_->comm; }
  static Communicator& launch() { return *ranks_->launch; }

  /// rank * 100, rank * 100 + 1, ...
  static Tensor numbers(int64_t count, int64_t rank = comm().rank()) {
    std::vector<float> values(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i)
      values[static_cast<size_t>(i)] = static_cast<float>(100 * rank + i);
    return Tensor::from<float>(gpu(), {count}, values);
  }

  /// Expects every rank to have the same values.
  static void expect_common(const Tensor& mine) {
    Tensor all = Tensor::empty(gpu(), {mine.numel() * comm().size()}, mine.dtype());
    comm().all_gather(all, mine);
    comm().wait();
    const std::vector<float> own = mine.to_vector<float>();
    for (int64_t rank = 0; rank < comm().size(); ++rank)
      EXPECT_TRUE(all.slice(rank * mine.numel(), (rank + 1) * mine.numel()).to_vector<float>() ==
                  own)
          << "ranks " << comm().rank() << " and " << rank;
  }

  static void expect_training(int64_t pairs, const std::vector<int64_t>& micro_batches);

 private:
  inline static Ranks* ranks_ = nullptr;
  inline static std::string why_;
};

TEST_F(OnGpuRanks, GatherPutsThePartsInTheOrderOfRanks) {
  for (const int64_t count : {1, 31, 1000}) {
    Tensor all = Tensor::empty(gpu(), {count * comm().size()}, DType::kF32);
    comm().all_gather(all, numbers(count));
    comm().wait();
    for (int64_t rank = 0; rank < comm().size(); ++rank)
      EXPECT_EQ(all.slice(rank * count, (rank + 1) * count).to_vector<float>(),
                numbers(count, rank).to_vector<float>());
  }
}

TEST_F(OnGpuRanks, SumsComeAfterWhatWasComputedAndBeforeWhatWillBe) {
  Tensor x = numbers(33), twice = numbers(33);
  gpu().add(x, twice);  // queued, not done
  comm().all_reduce_sum(x);
  comm().wait();
  gpu().add(x, twice);
  const int64_t size = comm().size();
  const auto values = x.to_vector<float>();
  for (int64_t i = 0; i < 33; ++i)
    EXPECT_EQ(
        values[static_cast<size_t>(i)],
        static_cast<float>(2 * (100 * size * (size - 1) / 2 + size * i) + 100 * comm().rank() + i));
}

TEST_F(OnGpuRanks, BroadcastGivesAllRanksTheNumbersOfTheRoot) {
  for (int64_t root = 0; root < comm().size(); ++root) {
    Tensor x = numbers(31);
    comm().broadcast(x, root);
    comm().wait();
    EXPECT_EQ(x.to_vector<float>(), numbers(31, root).to_vector<float>());
  }
}

TEST_F(OnGpuRanks, RefuseTensorsThatAreNotOnTheirGpu) {
  if (comm().size() == 1) GTEST_SKIP() << "one rank only copies";
  Tensor x = Tensor::zeros(cpu_backend(), {3}, DType::kF32);
  EXPECT_THROW(comm().all_reduce_sum(x), Error);
}

/// Trains on `pairs` pairs with each of these numbers of micro-batches, and expects the losses of one
/// GPU on the whole batch, and equal bits where a number comes again.
void OnGpuRanks::expect_training(int64_t pairs, const std::vector<int64_t>& micro_batches) {
  ClipConfig one_block = tiny_config();  // a simulated GPU is slow
  one_block.vision.layers = one_block.text.layers = 1;
  const auto train = [&](Communicator& ranks, int64_t count) {
    return twenty_steps_on_rank(ranks, pairs, count, gpu(), one_block);
  };
  Tensor losses = Tensor::zeros(cpu_backend(), {20}, DType::kF64);
  if (comm().rank() == 0)  // the others wait
    losses = Tensor::from(cpu_backend(), {20}, train(*make_single_communicator(), 1).losses);
  launch().broadcast(losses, 0);
  launch().wait();
  std::map<int64_t, std::vector<float>> parameters;
  for (const int64_t count : micro_batches) {
    const TwentySteps steps = train(comm(), count);
    expect_losses(steps.losses, losses.to_vector<double>(),
                  concat(comm().size(), " ranks, ", count, " micro-batches"));
    expect_common(steps.parameters);
    const auto values = steps.parameters.to_vector<float>();
    EXPECT_TRUE(parameters.emplace(count, values).first->second == values) << count;
  }
}

TEST_F(OnGpuRanks, TrainWithTheLossesOfOneGpuAndRepeatTheirBits) {
  // At least eight: the fewer pairs a mean is of, the less it evens out roundings.
  expect_training(2 * comm().size() * std::max<int64_t>(2, 4 / comm().size()), {1, 1, 2});
}

// For gpu-check: a simulated GPU takes too long.
TEST_F(OnGpuRanks, DISABLED_TrainWithTheLossesOfOneGpuAtEveryNumberOfMicroBatches) {
  expect_training(12 * comm().size(), {1, 2, 3, 4});
}

/// Why programs here cannot be started on so many GPUs; empty if they can.
std::string why_not_on(int gpus) {
  if (mpirun(1).empty()) return "no mpirun";
  try {
    make_cuda_backend(gpus - 1);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class MpirunWithGpus : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = why_not_on(3); !why.empty()) GTEST_SKIP() << why;
  }

  /// order    of the simulated GPU's streams; a real one has its own
  static void run_on_ranks(int64_t count, const std::string& tests, const std::string& order) {
    const CommandResult result = run_tests_on_ranks(count, tests, "CUDASIM_STREAMS=" + order);
    EXPECT_EQ(result.status, 0) << count << " ranks, " << order << ": " << result.output;
  }
};

TEST_F(MpirunWithGpus, CollectivesCarryWhatTheyShould) {
  for (const int64_t count : {2, 3})
    for (const char* order : {"lazy", "others", "eager"})
      run_on_ranks(count, "OnGpuRanks.*-*Train*", order);
}

TEST_F(MpirunWithGpus, TrainingGivesWhatOneGpuGives) {
  run_on_ranks(2, "OnGpuRanks.Train*", "lazy");
  run_on_ranks(3, "OnGpuRanks.Train*", "others");
}

class TrainAppOnGpus : public TrainApp {
 protected:
  void SetUp() override {
    if (const std::string why = why_not_on(2); !why.empty()) GTEST_SKIP() << why;
  }

  void train_on(int64_t gpus, const std::string& name) const {
    const Strings all = {"--model",
                         "m.json",
                         "--train-data",
                         "pairs.csv",
                         "--val-data",
                         "pairs.csv",
                         "--device",
                         "cuda",
                         "--precision",
                         "fp32",
                         "--workers",
                         "1",
                         "--batch-size",
                         concat(8 / gpus),
                         "--save-frequency",
                         "0",
                         "--steps",
                         "4",
                         "--save-steps",
                         "2",
                         "--log-every-n-steps",
                         "3",
                         "--name",
                         name};
    const AppResult result =
        AppProcess("train", all, folder_, ".stdout", gpus == 1 ? Strings{} : mpirun(gpus)).wait();
    ASSERT_EQ(result.status, 0) << result.err;
  }
};

TEST_F(TrainAppOnGpus, SavesAndEvaluatesWhatOneGpuGives) {
  train_on(1, "one");
  train_on(2, "two");  // step 2: rank 0 waits for its GPU, to save, and rank 1 for rank 0
  EXPECT_EQ(checkpoints("two"), (Names{"step_2", "step_4"}));
  const auto one = log("one"), two = log("two");
  ASSERT_EQ(one.size(), two.size());
  for (size_t i = 0; i + 1 < one.size(); ++i)
    EXPECT_NEAR(two[i]["loss"].get<double>(), one[i]["loss"].get<double>(), 1e-5) << two[i];
  EXPECT_EQ(two.back()["eval"], one.back()["eval"]);
}

}  // namespace
}  // namespace clip
