// Ranks with a simulated GPU each. The program starts itself again under mpirun, where the ranks run
// the suites OnGpuRanks; the suites DISABLED_Fault* end there in the fault that they plant.
#include <gtest/gtest.h>
#include <unistd.h>

#include "engine/backend.h"
#include "engine/communicator.h"
#include "engine/launcher.h"
#include "tests/cudasim/fault.h"
#include "tests/cudasim/options.h"
#include "tests/run_command.h"

namespace clip {
namespace {

struct Ranks {
  std::unique_ptr<Communicator> launch = make_communicator();
  std::unique_ptr<Backend> gpu = make_cuda_backend(static_cast<int>(launch->local_rank()));
  std::unique_ptr<Communicator> comm = make_gpu_communicator(*launch, *gpu);
};

Ranks& ranks() {
  static Ranks joined;
  return joined;
}

/// rank * 100, rank * 100 + 1, ...
Tensor numbers(int64_t count, int64_t rank = ranks().comm->rank()) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    values[static_cast<size_t>(i)] = static_cast<float>(100 * rank + i);
  return Tensor::from<float>(*ranks().gpu, {count}, values);
}

TEST(OnGpuRanks, GatherPutsThePartsInTheOrderOfRanks) {
  for (const int64_t count : {1, 31, 1000}) {
    Tensor all = Tensor::empty(*ranks().gpu, {count * ranks().comm->size()}, DType::kF32);
    ranks().comm->all_gather(all, numbers(count));
    ranks().comm->wait();
    for (int64_t rank = 0; rank < ranks().comm->size(); ++rank)
      EXPECT_EQ(all.slice(rank * count, (rank + 1) * count).to_vector<float>(),
                numbers(count, rank).to_vector<float>());
  }
}

TEST(OnGpuRanks, SumsComeAfterWhatWasComputedAndBeforeWhatWillBe) {
  Tensor x = numbers(33), twice = numbers(33);
  ranks().gpu->add(x, twice);  // queued, not done
  ranks().comm->all_reduce_sum(x);
  ranks().comm->wait();
  ranks().gpu->add(x, twice);
  const int64_t size = ranks().comm->size(), rank = ranks().comm->rank();
  const auto values = x.to_vector<float>();
  for (int64_t i = 0; i < 33; ++i)
    EXPECT_EQ(values[static_cast<size_t>(i)],
              static_cast<float>(2 * (100 * size * (size - 1) / 2 + size * i) + 100 * rank + i));
}

TEST(OnGpuRanks, BroadcastGivesAllRanksTheNumbersOfTheRoot) {
  for (int64_t root = 0; root < ranks().comm->size(); ++root) {
    Tensor x = numbers(31);
    ranks().comm->broadcast(x, root);
    ranks().comm->wait();
    EXPECT_EQ(x.to_vector<float>(), numbers(31, root).to_vector<float>());
  }
}

TEST(DISABLED_OnSeveralRanks, RefusesTensorsThatAreNotOnTheirGpu) {
  Tensor x = Tensor::zeros(cpu_backend(), {3}, DType::kF32);
  EXPECT_THROW(ranks().comm->all_reduce_sum(x), Error);
}

TEST(DISABLED_FaultCounts, RanksSumDifferentCounts) {
  Tensor x = numbers(10 + ranks().comm->rank());
  ranks().comm->all_reduce_sum(x);
  ranks().comm->wait();
  ranks().gpu->synchronize();
}

TEST(DISABLED_FaultKinds, OneRankSumsAndTheOthersBroadcast) {
  Tensor x = numbers(10);
  if (ranks().comm->rank() == 0) {
    ranks().comm->all_reduce_sum(x);
  } else {
    ranks().comm->broadcast(x, 0);
  }
  ranks().comm->wait();
  ranks().gpu->synchronize();
}

TEST(DISABLED_FaultSilence, OneRankDoesNotCall) {
  Tensor x = numbers(10);
  if (ranks().comm->rank() == 0) ranks().comm->all_reduce_sum(x);
  ranks().comm->wait();
  ranks().gpu->synchronize();
  ranks().launch->barrier();
  ranks().launch->wait();
}

TEST(DISABLED_FaultNoWait, TheSumIsReadBeforeItIsThere) {
  cudasim::options().streams = cudasim::StreamOrder::kLazy;
  Tensor x = numbers(10);
  ranks().comm->all_reduce_sum(x);
  EXPECT_NE(x.to_vector<float>()[1], 102.0f);
  ranks().comm->wait();
  EXPECT_EQ(x.to_vector<float>()[1], 102.0f);
}

/// This program under mpirun, with the tests that match.
CommandResult run_on(int64_t count, const std::string& filter, const std::string& environment) {
  return run_command(concat(environment, " ", mpirun_line(count), "/proc/", ::getpid(),
                            "/exe --gtest_also_run_disabled_tests --gtest_filter='", filter, "'"));
}

class SimulatedNccl : public testing::Test {
 protected:
  void SetUp() override {
    if (launched_ranks() > 1) GTEST_SKIP() << "this is one of the ranks";
    if (mpirun(1).empty()) GTEST_SKIP() << "no mpirun";
  }
};

TEST_F(SimulatedNccl, JoinsTwoAndThreeRanksInEveryOrderOfStreams) {
  for (const int64_t count : {2, 3})
    for (const char* order : {"lazy", "others", "eager"}) {
      const CommandResult result =
          run_on(count, "OnGpuRanks.*:DISABLED_OnSeveral*", concat("CUDASIM_STREAMS=", order));
      EXPECT_EQ(result.status, 0) << order << ": " << result.output;
    }
}

TEST_F(SimulatedNccl, AWaitThatIsForgottenShows) {
  const CommandResult result = run_on(2, "DISABLED_FaultNoWait.*", "");
  EXPECT_EQ(result.status, 0) << result.output;
}

TEST_F(SimulatedNccl, NamesBothRanksCallsWhereTheyDiffer) {
  const CommandResult counts = run_on(2, "DISABLED_FaultCounts.*", "");
  EXPECT_EQ(counts.status, cudasim::kFaultExitCode);
  EXPECT_NE(counts.output.find("ncclAllReduce of 10 elements"), std::string::npos) << counts.output;
  EXPECT_NE(counts.output.find("ncclAllReduce of 11 elements"), std::string::npos) << counts.output;
  const CommandResult kinds = run_on(2, "DISABLED_FaultKinds.*", "");
  EXPECT_EQ(kinds.status, cudasim::kFaultExitCode);
  EXPECT_NE(kinds.output.find("ncclAllReduce"), std::string::npos) << kinds.output;
  EXPECT_NE(kinds.output.find("ncclBroadcast"), std::string::npos) << kinds.output;
}

TEST_F(SimulatedNccl, DoesNotWaitForEverForARankThatNeverCalls) {
  const CommandResult result = run_on(2, "DISABLED_FaultSilence.*", "CUDASIM_NCCL_SECONDS=1");
  EXPECT_EQ(result.status, cudasim::kFaultExitCode);
  EXPECT_NE(result.output.find("which another rank never called"), std::string::npos)
      << result.output;
}

TEST_F(SimulatedNccl, OneRankNeedsNone) {
  EXPECT_EQ(ranks().comm->size(), 1);
  Tensor x = numbers(3);
  ranks().comm->all_reduce_sum(x);
  ranks().comm->wait();
  EXPECT_EQ(x.to_vector<float>(), (std::vector<float>{0, 1, 2}));
}

}  // namespace
}  // namespace clip
