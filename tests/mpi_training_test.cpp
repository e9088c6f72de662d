// Training steps over MPI. The program starts itself again under mpirun, where the ranks run the
// suites OnRanks; those in which a rank dies only there.
#include <signal.h>

#include <chrono>

#include "autograd/gradient_reducer.h"
#include "tests/run_command.h"
#include "tests/whole_batch.h"

namespace clip {
namespace {

Communicator& ranks() {
  static const auto joined = make_communicator();
  return *joined;
}

TEST(OnRanks, EveryNumberOfMicroBatchesGivesTheGradientsOfOneProcess) {
  const auto alone = make_single_communicator();
  for (int64_t micro_batches = 1; micro_batches <= 3; ++micro_batches) {
    const int64_t pairs = 2 * ranks().size() * micro_batches;
    const auto expected = gradients_on_rank(*alone, pairs, 1, Activations::kKept);
    // The sums over rows are cut in other places: some roundings of 1e-16 each.
    for (const Activations activations : {Activations::kKept, Activations::kRecomputed})
      expect_relative(gradients_on_rank(ranks(), pairs, micro_batches, activations), expected,
                      1e-12);
  }
}

void die_on_rank_one() {
  if (ranks().rank() == 1) ::raise(SIGKILL);
}

class DISABLED_OnRanks : public testing::Test {
 protected:
  DISABLED_OnRanks() : model_(tiny_config(), cpu_backend()) {
    randomize(model_.parameters);
    model_.parameters.allocate_training_state();
  }

  ClipModel model_;
  std::vector<Batch> batch_ = batch_of_rank(ranks(), 0, 2 * ranks().size(), 1);
};

TEST_F(DISABLED_OnRanks, OneDiesInForward) {
  Tape tape;
  model_.clip.encode_image(batch_[0].images);
  die_on_rank_one();
  contrast_and_gradients(model_, batch_, ranks());
}

TEST_F(DISABLED_OnRanks, OneDiesInBackward) {
  GradientReducer reducer(model_.parameters, ranks(), 1000);
  Tape tape;
  int64_t finished = 0;
  const Contrast result = contrast(model_.clip, batch_[0], ranks());
  tape.backward(result.loss, [&](const Variable& leaf) {
    reducer.ready(leaf);
    if (++finished == 10) die_on_rank_one();
  });
  reducer.finish();
}

TEST_F(DISABLED_OnRanks, OneDiesInACollective) {
  Tensor sum = Tensor::zeros(cpu_backend(), {1 << 22}, DType::kF32);
  ranks().all_reduce_sum(sum);
  die_on_rank_one();
  ranks().wait();  // may be done with the dead rank's part, but not
  ranks().all_reduce_sum(sum);
  ranks().wait();
}

class Mpirun : public testing::Test {
 protected:
  void SetUp() override {
    if (mpirun(1).empty()) GTEST_SKIP() << "no mpirun";
  }
};

TEST_F(Mpirun, GivesTheGradientsOfOneProcess) {
  for (const int64_t count : {2, 3}) {
    const CommandResult result = run_tests_on_ranks(count, "OnRanks.*");
    EXPECT_EQ(result.status, 0) << result.output;
  }
}

TEST_F(Mpirun, EndsAllRanksWhenOneIsKilled) {
  for (const char* test : {"OneDiesInForward", "OneDiesInBackward", "OneDiesInACollective"}) {
    const auto start = std::chrono::steady_clock::now();
    const CommandResult result = run_tests_on_ranks(3, concat("DISABLED_OnRanks.", test));
    const auto time = std::chrono::steady_clock::now() - start;
    EXPECT_EQ(result.status, 128 + SIGKILL) << result.output;
    EXPECT_NE(result.output.find("rank 1"), std::string::npos) << result.output;
    EXPECT_EQ(result.output.find("[       OK ]"), std::string::npos) << result.output;
    EXPECT_LT(time, std::chrono::seconds(10)) << test;
  }
}

}  // namespace
}  // namespace clip
