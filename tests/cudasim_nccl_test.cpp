// What ranks with a simulated GPU each may get wrong. The program starts itself again under mpirun,
// where the suites DISABLED_Fault* end in the fault that they plant.
#include <gtest/gtest.h>

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
Tensor numbers(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    values[static_cast<size_t>(i)] = static_cast<float>(100 * ranks().comm->rank() + i);
  return Tensor::from<float>(*ranks().gpu, {count}, values);
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

class SimulatedNccl : public testing::Test {
 protected:
  void SetUp() override {
    if (launched_ranks() > 1) GTEST_SKIP() << "this is one of the ranks";
    if (mpirun(1).empty()) GTEST_SKIP() << "no mpirun";
  }
};

TEST_F(SimulatedNccl, AWaitThatIsForgottenShows) {
  const CommandResult result = run_tests_on_ranks(2, "DISABLED_FaultNoWait.*");
  EXPECT_EQ(result.status, 0) << result.output;
}

TEST_F(SimulatedNccl, NamesBothRanksCallsWhereTheyDiffer) {
  const CommandResult counts = run_tests_on_ranks(2, "DISABLED_FaultCounts.*");
  EXPECT_EQ(counts.status, cudasim::kFaultExitCode);
  EXPECT_NE(counts.output.find("ncclAllReduce of 10 elements"), std::string::npos) << counts.output;
  EXPECT_NE(counts.output.find("ncclAllReduce of 11 elements"), std::string::npos) << counts.output;
  const CommandResult kinds = run_tests_on_ranks(2, "DISABLED_FaultKinds.*");
  EXPECT_EQ(kinds.status, cudasim::kFaultExitCode);
  EXPECT_NE(kinds.output.find("ncclAllReduce"), std::string::npos) << kinds.output;
  EXPECT_NE(kinds.output.find("ncclBroadcast"), std::string::npos) << kinds.output;
}

TEST_F(SimulatedNccl, DoesNotWaitForEverForARankThatNeverCalls) {
  const CommandResult result =
      run_tests_on_ranks(2, "DISABLED_FaultSilence.*", "CUDASIM_NCCL_SECONDS=1");
  EXPECT_EQ(result.status, cudasim::kFaultExitCode);
  EXPECT_NE(result.output.find("which another rank never called"), std::string::npos)
      << result.output;
}

}  // namespace
}  // namespace clip
