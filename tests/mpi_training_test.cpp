// Training steps over MPI. The program starts itself again under mpirun, where the ranks run the
// suites OnRanks; those in which a rank dies only there.
#include <signal.h>

#include <chrono>

#include "autograd/gradient_reducer.h"
#include "models/evaluation.h"
#include "tests/app_samples.h"
#include "tests/reference_values.h"
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
    const auto expected = gradients_on_rank(*alone, pairs, 1, {});
    // The sums over rows are cut in other places: some roundings of 1e-16 each.
    for (const Activations activations : {Activations::kKept, Activations::kRecomputed})
      expect_near(gradients_on_rank(ranks(), pairs, micro_batches, {.activations = activations}),
                  expected, 1e-12);
  }
}

/// Noise with captions of two words; every 70th picture cannot be read.
class NoisePairs final : public Dataset {
 public:
  int64_t size() const override { return 300; }
  Sample get(int64_t index, int64_t) const override {
    if (index % 70 == 69) throw BrokenSample("no picture");
    return {noise_picture(24, 24, static_cast<uint64_t>(index)), caption(index)};
  }
  std::vector<std::string> captions() const override { return {caption(1), caption(2)}; }
  std::string describe() const override { return "noise"; }

  std::string caption(int64_t index) const override {
    return concat(index % 17, index % 2 == 0 ? " lions " : " cats ", index);
  }
};

TEST(OnRanks, EvaluationGivesTheBitsOfOneProcess) {
  const NoisePairs pairs;
  const Tokenizer tokenizer = Tokenizer::learn(pairs.captions(), 520);
  ClipConfig config = tiny_config();
  config.text.vocab_size = tokenizer.vocab_size();
  ClipModel model(config, cpu_backend());
  randomize(model.parameters);
  const auto picture = [](int64_t i) { return noise_picture(24, 24, static_cast<uint64_t>(i)); };
  EXPECT_EQ(image_features(model.clip, 300, picture, &ranks()).to_vector<float>(),
            image_features(model.clip, 300, picture).to_vector<float>());

  const Retrieval shared = evaluate_retrieval(model.clip, tokenizer, pairs, &ranks());
  const Retrieval alone = evaluate_retrieval(model.clip, tokenizer, pairs);
  EXPECT_EQ(alone.text_of_image.tried, 296);
  EXPECT_EQ(shared.text_of_image.tried, 296);
  EXPECT_EQ(shared.text_of_image.correct, alone.text_of_image.correct);
  EXPECT_EQ(shared.image_of_text.correct, alone.image_of_text.correct);
}

TEST(OnRanks, FloorAndTop1AreThoseOfTheGlobalBatch) {
  const auto alone = make_single_communicator();
  // Pairs i and i + 4 share a caption; of the pictures every third is another one's.
  const int64_t rows = 4, all_rows = rows * ranks().size();
  Captions all;
  std::vector<float> images, texts;
  for (int64_t i = 0; i < all_rows; ++i) {
    all.push_back(std::vector<int32_t>(static_cast<size_t>(1 + i % 4), 7));
    for (int64_t e = 0; e < 4; ++e) {
      texts.push_back(e == i % 4 ? 1.0f : 0.0f);
      images.push_back(e == (i + (i % 3 == 0 ? 1 : 0)) % 4 ? 1.0f : 0.0f);
    }
  }
  const auto features = [&](const std::vector<float>& values) {
    return Tensor::from(cpu_backend(), {all_rows, 4}, values);
  };
  const int64_t begin = ranks().rank() * rows;
  const Captions own(all.begin() + begin, all.begin() + begin + rows);
  EXPECT_EQ(all_captions(own, ranks()), all);
  EXPECT_DOUBLE_EQ(loss_floor(all), std::log(static_cast<double>(ranks().size())));
  const double whole = in_batch_top1(features(images), features(texts), all, *alone);
  const double wrong = static_cast<double>((all_rows + 2) / 3);
  EXPECT_DOUBLE_EQ(whole, 1 - wrong / static_cast<double>(all_rows));
  EXPECT_DOUBLE_EQ(in_batch_top1(features(images).slice(begin, begin + rows),
                                 features(texts).slice(begin, begin + rows), all, ranks()),
                   whole);
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

TEST_F(Mpirun, GivesWhatOneProcessGives) {
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
