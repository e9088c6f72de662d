#include "models/accuracy.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/error_message.h"

namespace clip {
namespace {

using Classes = std::vector<int64_t>;

void count(Accuracy& accuracy, int64_t label, const Classes& ranked) {
  accuracy.count(label, ranked);
}

TEST(Accuracy, TopFiveTakesTheFirstFiveAndNoMore) {
  Accuracy accuracy(7);
  count(accuracy, 3, {3, 0, 1, 2, 4, 5, 6});
  count(accuracy, 4, {3, 0, 1, 2, 4, 5, 6});
  count(accuracy, 5, {3, 0, 1, 2, 4, 5, 6});
  EXPECT_EQ(accuracy.top1.correct, 1);
  EXPECT_EQ(accuracy.top5.correct, 2);
  EXPECT_EQ(accuracy.top5.tried, 3);
}

TEST(Accuracy, TheMeanPerClassIsOfClassesThatHavePictures) {
  Accuracy accuracy(3);
  EXPECT_EQ(accuracy.mean_per_class(), 0);
  for (int i = 0; i < 3; ++i) count(accuracy, 0, {0, 1});
  count(accuracy, 1, {0, 1});
  EXPECT_EQ(accuracy.mean_per_class(), 0.5);
  EXPECT_EQ(accuracy.top1.value(), 0.75);
  EXPECT_EQ(accuracy.per_class[0].correct, 3);
  EXPECT_EQ(accuracy.per_class[1].tried, 1);
  EXPECT_EQ(accuracy.per_class[2].tried, 0);
}

TEST(Accuracy, MistakesAreCountedByWhatWasAnsweredInstead) {
  Accuracy accuracy(4);
  count(accuracy, 1, {2, 1});
  count(accuracy, 1, {2, 1});
  count(accuracy, 1, {3, 1});
  count(accuracy, 1, {1, 3});
  EXPECT_EQ(accuracy.mistakes[1], (std::map<int64_t, int64_t>{{2, 2}, {3, 1}}));
  EXPECT_TRUE(accuracy.mistakes[2].empty());
}

TEST(Accuracy, AnAnswerIsNeeded) {
  Accuracy accuracy(2);
  EXPECT_TRUE(says(error_message([&] { count(accuracy, 0, {}); }), "needs an answer"));
}

TEST(Classify, ACosineThatIsNoNumberIsRefusedAndItsClassNamed) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const Classifier classifier{{.labels = {"cat", "dog"}, .templates = {"{}"}},
                              Tensor::from<float>(cpu_backend(), {2, 2}, {1, 0, kNan, 1})};
  const auto ask = [&](const std::vector<float>& feature) {
    classify(classifier, Tensor::from<float>(cpu_backend(), {1, 2}, feature), 0);
  };
  EXPECT_TRUE(says(error_message([&] { ask({1, 0}); }), "\"dog\"", "NaN"));
  EXPECT_TRUE(says(error_message([&] { ask({kNan, 0}); }), "\"cat\"", "NaN"));
}

}  // namespace
}  // namespace clip
