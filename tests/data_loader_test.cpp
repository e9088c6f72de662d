#include "models/data_loader.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace clip {
namespace {

constexpr int64_t kSide = 4;

/// Pictures whose first pixel is (index, epoch, 0), with the index for a caption.
class FakeDataset : public Dataset {
 public:
  int64_t samples = 23;
  int64_t native = kSide;
  int64_t width = kSide, height = kSide;
  std::set<int64_t> broken;
  std::function<void(int64_t index)> on_get = [](int64_t) {};

  int64_t size() const override { return samples; }
  Sample get(int64_t index, int64_t epoch) const override {
    on_get(index);
    if (broken.contains(index)) throw BrokenSample(concat("picture ", index, " is broken"));
    Sample sample;
    sample.caption = std::to_string(index);
    sample.image = {width, height, std::vector<uint8_t>(static_cast<size_t>(width * height * 3))};
    for (size_t i = 3; i < sample.image.pixels.size(); ++i) {
      sample.image.pixels[i] = static_cast<uint8_t>(i * i + static_cast<size_t>(index) * 7);
    }
    sample.image.pixels[0] = static_cast<uint8_t>(index);
    sample.image.pixels[1] = static_cast<uint8_t>(epoch);
    return sample;
  }
  std::vector<std::string> captions() const override { return {}; }
  int64_t native_size() const override { return native; }
  std::string describe() const override { return "fake"; }
};

const std::shared_ptr<const Tokenizer>& tokenizer() {
  static const auto shared = std::make_shared<const Tokenizer>(std::vector<Tokenizer::Merge>{});
  return shared;
}

LoaderOptions options_of(int64_t batch_size, int64_t workers) {
  return {.batch_size = batch_size,
          .image_size = kSide,
          .context_length = 8,
          .seed = 5,
          .workers = workers};
}

std::vector<HostBatch> batches_of(const FakeDataset& data, const LoaderOptions& options,
                                  int64_t count, int64_t first_step = 0) {
  DataLoader loader(std::make_shared<FakeDataset>(data), tokenizer(), options, first_step);
  std::vector<HostBatch> batches;
  for (int64_t i = 0; i < count; ++i) batches.push_back(loader.next());
  return batches;
}

void expect_equal(const std::vector<HostBatch>& a, const std::vector<HostBatch>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].images, b[i].images) << "step " << i;
    EXPECT_EQ(a[i].tokens, b[i].tokens) << "step " << i;
  }
}

/// Byte `channel` of each picture's first pixel.
std::vector<int> first_pixels(const HostBatch& batch, size_t channel) {
  std::vector<int> values;
  for (size_t i = 0; i < batch.images.size(); i += kSide * kSide * 3) {
    values.push_back(batch.images[i + channel]);
  }
  return values;
}

std::vector<int> indices_of(const std::vector<HostBatch>& batches) {
  std::vector<int> all;
  for (const HostBatch& batch : batches) {
    const std::vector<int> indices = first_pixels(batch, 0);
    all.insert(all.end(), indices.begin(), indices.end());
  }
  return all;
}

TEST(ShuffledIndex, IsAPermutationAtEverySize) {
  for (int64_t size = 1; size <= 200; ++size) {
    std::set<int64_t> seen;
    for (int64_t i = 0; i < size; ++i) seen.insert(shuffled_index(1, 2, size, i));
    ASSERT_EQ(static_cast<int64_t>(seen.size()), size);
    ASSERT_EQ(*seen.begin(), 0);
    ASSERT_EQ(*seen.rbegin(), size - 1);
  }
}

TEST(ShuffledIndex, IsAPermutationOfALargeSet) {
  constexpr int64_t kSize = 100'003;
  std::vector<bool> seen(kSize);
  for (int64_t i = 0; i < kSize; ++i)
    seen[static_cast<size_t>(shuffled_index(9, 0, kSize, i))] = true;
  EXPECT_EQ(std::count(seen.begin(), seen.end(), true), kSize);
}

TEST(ShuffledIndex, MakesEveryOrderOfFourEquallyOften) {
  constexpr int kTrials = 24'000;
  std::map<std::vector<int64_t>, int> counts;
  for (uint64_t seed = 0; seed < kTrials; ++seed) {
    std::vector<int64_t> order;
    for (int64_t i = 0; i < 4; ++i) order.push_back(shuffled_index(seed, 3, 4, i));
    ++counts[order];
  }
  EXPECT_EQ(counts.size(), 24u);
  // Each count is binomial with mean 1000 and standard deviation 31; six of them never happen.
  for (const auto& [order, count] : counts) EXPECT_NEAR(count, 1000, 6 * 31);
}

TEST(ShuffledIndex, LeavesNoTraceOfTheFormerNeighbours) {
  constexpr int64_t kSize = 10'000;
  double sum = 0;
  for (int64_t i = 0; i < kSize; ++i) {
    const auto distance = static_cast<double>(shuffled_index(4, 0, kSize, i) -
                                              shuffled_index(4, 0, kSize, (i + 1) % kSize));
    sum += std::abs(distance);
  }
  // Two random places are size/3 apart; the mean of size distances is off by about
  // size/4/sqrt(size).
  EXPECT_NEAR(sum / kSize, kSize / 3.0, 6 * kSize / 4.0 / 100);
}

TEST(ShuffledIndex, DiffersBetweenSeedsAndEpochs) {
  const auto order = [](uint64_t seed, int64_t epoch) {
    std::vector<int64_t> indices;
    for (int64_t i = 0; i < 50; ++i) indices.push_back(shuffled_index(seed, epoch, 50, i));
    return indices;
  };
  EXPECT_EQ(order(1, 1), order(1, 1));
  EXPECT_NE(order(1, 1), order(2, 1));
  EXPECT_NE(order(1, 1), order(1, 2));
}

TEST(DataLoader, MakesEqualBatchesAtAnyNumberOfWorkers) {
  FakeDataset data;
  data.native = 0;
  data.width = 9;
  data.height = 7;
  data.broken = {2, 11};
  const std::vector<HostBatch> serial = batches_of(data, options_of(5, 0), 12);
  expect_equal(batches_of(data, options_of(5, 1), 12), serial);
  expect_equal(batches_of(data, options_of(5, 4), 12), serial);
}

TEST(DataLoader, VisitsEachSampleOncePerEpochInANewOrder) {
  const FakeDataset data;
  const std::vector<int> indices = indices_of(batches_of(data, options_of(23, 2), 2));
  std::vector<int> first(indices.begin(), indices.begin() + 23);
  std::vector<int> second(indices.begin() + 23, indices.end());
  EXPECT_NE(first, second);
  std::vector<int> all(23);
  std::iota(all.begin(), all.end(), 0);
  for (std::vector<int>* epoch : {&first, &second}) {
    EXPECT_NE(*epoch, all);
    std::sort(epoch->begin(), epoch->end());
    EXPECT_EQ(*epoch, all);
  }
}

TEST(DataLoader, PassesTheEpochOfEachPosition) {
  const std::vector<HostBatch> batches = batches_of({}, options_of(20, 1), 2);
  EXPECT_EQ(first_pixels(batches[0], 1), std::vector<int>(20, 0));
  std::vector<int> expected(20, 1);
  std::fill_n(expected.begin(), 3, 0);  // positions 20, 21 and 22 end the first epoch
  EXPECT_EQ(first_pixels(batches[1], 1), expected);
}

TEST(DataLoader, KeepsTheOrderOfTheDataWithoutShuffle) {
  LoaderOptions options = options_of(5, 2);
  options.shuffle = false;
  const std::vector<int> indices = indices_of(batches_of({}, options, 10));
  for (size_t i = 0; i < indices.size(); ++i) EXPECT_EQ(indices[i], static_cast<int>(i % 23));
}

TEST(DataLoader, GivesTheCaptionOfEachPicture) {
  for (const HostBatch& batch : batches_of({}, options_of(6, 2), 4)) {
    const std::vector<int> indices = first_pixels(batch, 0);
    for (size_t row = 0; row < 6; ++row) {
      EXPECT_EQ(batch.tokens[row], tokenizer()->tokenize(std::to_string(indices[row]), 8));
    }
  }
}

TEST(DataLoader, GivesRanksTheRowsOfTheOneRankBatch) {
  FakeDataset data;
  data.native = 0;
  data.broken = {4};
  const std::vector<HostBatch> whole = batches_of(data, options_of(6, 0), 9);
  std::vector<HostBatch> joined(whole.size());
  for (int64_t rank = 0; rank < 3; ++rank) {
    LoaderOptions options = options_of(2, 1);
    options.rank = rank;
    options.ranks = 3;
    const std::vector<HostBatch> part = batches_of(data, options, 9);
    for (size_t i = 0; i < part.size(); ++i) {
      joined[i].images.insert(joined[i].images.end(), part[i].images.begin(), part[i].images.end());
      joined[i].tokens.insert(joined[i].tokens.end(), part[i].tokens.begin(), part[i].tokens.end());
    }
  }
  expect_equal(joined, whole);
}

TEST(DataLoader, ResumesAtAnyStepAsIfUninterrupted) {
  FakeDataset data;
  data.native = 0;
  data.broken = {4};
  const std::vector<HostBatch> whole = batches_of(data, options_of(5, 2), 12);
  expect_equal(batches_of(data, options_of(5, 2), 5, 7), {whole.begin() + 7, whole.end()});
}

TEST(DataLoader, CountsTheStepsOfAnEpochRoundedUp) {
  LoaderOptions options = options_of(4, 0);
  options.ranks = 2;
  const auto steps = [&](int64_t samples) {
    FakeDataset data;
    data.samples = samples;
    return DataLoader(std::make_shared<FakeDataset>(data), tokenizer(), options).steps_per_epoch();
  };
  EXPECT_EQ(steps(1), 1);
  EXPECT_EQ(steps(16), 2);
  EXPECT_EQ(steps(17), 3);
}

TEST(DataLoader, LeavesPicturesOfTheNativeSizeAsTheyAre) {
  const FakeDataset data;
  LoaderOptions options = options_of(23, 0);
  options.shuffle = false;
  const HostBatch batch = batches_of(data, options, 1)[0];
  std::vector<uint8_t> expected;
  for (int64_t i = 0; i < 23; ++i) {
    const std::vector<uint8_t> pixels = data.get(i, 0).image.pixels;
    expected.insert(expected.end(), pixels.begin(), pixels.end());
  }
  EXPECT_EQ(batch.images, expected);
}

TEST(DataLoader, CropsTheCentreWithoutAugmentation) {
  FakeDataset data;
  data.native = 0;
  data.width = 9;
  data.height = 7;
  LoaderOptions options = options_of(1, 0);
  options.shuffle = options.augment = false;
  EXPECT_EQ(batches_of(data, options, 1)[0].images,
            resize_and_center_crop(data.get(0, 0).image, kSide).pixels);
}

TEST(DataLoader, FollowsTheModelsRulesForPicturesWithoutAugmentation) {
  FakeDataset data;
  data.native = 0;
  data.width = 9;
  data.height = 7;
  LoaderOptions options = options_of(1, 0);
  options.shuffle = options.augment = false;
  options.preprocess = {.resize_mode = ResizeMode::kSquash};
  EXPECT_EQ(batches_of(data, options, 1)[0].images,
            prepare_image(data.get(0, 0).image, kSide, options.preprocess).pixels);
}

TEST(DataLoader, CropsASampleAnewInEachEpoch) {
  FakeDataset data;
  data.samples = 1;
  data.native = 0;
  data.width = 40;
  data.height = 30;
  std::set<std::vector<uint8_t>> pictures;
  for (const HostBatch& batch : batches_of(data, options_of(1, 0), 8))
    pictures.insert(batch.images);
  EXPECT_GT(pictures.size(), 1u);
}

TEST(DataLoader, ReplacesBrokenSamplesAndNamesEachOnce) {
  FakeDataset data;
  data.broken = {3, 8};
  for (const int64_t workers : {0, 4}) {
    DataLoader loader(std::make_shared<FakeDataset>(data), tokenizer(), options_of(23, workers));
    for (int epoch = 0; epoch < 3; ++epoch) {
      for (const int index : first_pixels(loader.next(), 0))
        EXPECT_FALSE(data.broken.contains(index));
    }
    // Each epoch meets both once at their own places, and perhaps again as replacements.
    EXPECT_GE(loader.broken_samples(), 6);
    std::vector<std::string> warnings = loader.take_warnings();
    std::sort(warnings.begin(), warnings.end());
    EXPECT_EQ(warnings, (std::vector<std::string>{"sample 3 is left out: picture 3 is broken",
                                                  "sample 8 is left out: picture 8 is broken"}));
    EXPECT_TRUE(loader.take_warnings().empty());
  }
}

TEST(DataLoader, CountsBrokenSamplesTheSameAtAnyNumberOfWorkers) {
  FakeDataset data;
  for (int64_t i = 0; i < 23; i += 2) data.broken.insert(i);
  const auto run = [&](int64_t workers) {
    DataLoader loader(std::make_shared<FakeDataset>(data), tokenizer(), options_of(5, workers));
    for (int i = 0; i < 6; ++i) loader.next();
    return std::pair(loader.broken_samples(), loader.take_warnings());
  };
  EXPECT_EQ(run(0), run(4));
}

TEST(DataLoader, ThrowsIfAllSamplesTriedForARowAreBroken) {
  FakeDataset data;
  for (int64_t i = 0; i < 23; ++i) data.broken.insert(i);
  for (const int64_t workers : {0, 2}) {
    DataLoader loader(std::make_shared<FakeDataset>(data), tokenizer(), options_of(2, workers));
    try {
      loader.next();
      FAIL() << "expected an error";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("all of 100 samples"), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("is broken"), std::string::npos);
    }
  }
}

TEST(DataLoader, ThrowsAWorkersErrorAtTheStepItBelongsToAndEverAfter) {
  FakeDataset data;
  data.on_get = [](int64_t index) {
    if (index == 13) throw std::logic_error("the disk is gone");
  };
  for (const int64_t workers : {0, 1, 4}) {
    LoaderOptions options = options_of(5, workers);
    options.shuffle = false;
    DataLoader loader(std::make_shared<FakeDataset>(data), tokenizer(), options);
    EXPECT_EQ(first_pixels(loader.next(), 0)[4], 4);
    EXPECT_EQ(first_pixels(loader.next(), 0)[4], 9);
    EXPECT_THROW(loader.next(), std::logic_error);
    EXPECT_THROW(loader.next(), std::logic_error);
  }
}

TEST(DataLoader, RefusesAPictureThatIsNotOfTheNativeSizePromised) {
  FakeDataset data;
  data.width = kSide + 1;
  EXPECT_THROW(batches_of(data, options_of(2, 1), 1), Error);
}

TEST(DataLoader, StopsWithoutACallOfNext) {
  for (const int64_t workers : {0, 1, 4}) {
    DataLoader loader(std::make_shared<FakeDataset>(), tokenizer(), options_of(4, workers));
  }
}

TEST(DataLoader, StopsInTheMiddleOfABatch) {
  FakeDataset data;
  std::atomic<int> calls = 0;
  data.on_get = [&](int64_t) {
    ++calls;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  };
  {
    DataLoader loader(std::make_shared<FakeDataset>(data), tokenizer(), options_of(100'000, 3));
    while (calls == 0) std::this_thread::yield();
  }
  EXPECT_LT(calls, 100'000);
}

TEST(DataLoader, StaysAFewBatchesAhead) {
  FakeDataset data;
  std::atomic<int64_t> calls = 0;
  data.on_get = [&](int64_t) { ++calls; };
  DataLoader loader(std::make_shared<FakeDataset>(data), tokenizer(), options_of(5, 4));
  const auto settle = [&](int64_t expected) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (calls < expected && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // time to overshoot, if it did
    EXPECT_EQ(calls, expected);
  };
  constexpr auto kAhead = static_cast<int64_t>(DataLoader::kPrefetch);
  settle(5 * kAhead);
  loader.next();
  settle(5 * (kAhead + 1));
}

TEST(DataLoader, LowersThePriorityOfItsWorkersOnly) {
  FakeDataset data;
  std::atomic<int> workers_nice = -100;
  data.on_get = [&](int64_t) { workers_nice = getpriority(PRIO_PROCESS, 0); };
  const int own_nice = getpriority(PRIO_PROCESS, 0);
  DataLoader loader(std::make_shared<FakeDataset>(data), tokenizer(), options_of(2, 1));
  loader.next();
  EXPECT_EQ(workers_nice, std::min(own_nice + 10, 19));
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), own_nice);
}

TEST(DataLoader, RefusesEmptyDataAndOptionsThatMakeNoSense) {
  const auto refuses = [](int64_t samples, const LoaderOptions& options, int64_t first_step = 0) {
    auto data = std::make_shared<FakeDataset>();
    data->samples = samples;
    EXPECT_THROW(DataLoader(data, tokenizer(), options, first_step), Error);
  };
  refuses(0, options_of(2, 1));
  refuses(9, options_of(0, 1));
  refuses(9, options_of(2, -1));
  refuses(9, options_of(2, 1), -1);
  LoaderOptions options = options_of(2, 1);
  options.rank = options.ranks = 2;
  refuses(9, options);
}

TEST(DataLoader, TellsWhichSamplesABatchHoldsAndWhereItStandsInTheOrder) {
  const auto dataset = std::make_shared<FakeDataset>();
  dataset->broken = {4};
  LoaderOptions options = options_of(4, 2);
  options.ranks = 3;
  options.rank = 1;
  DataLoader loader(dataset, tokenizer(), options);
  for (int64_t step = 0; step < 12; ++step) {
    const HostBatch batch = loader.next();
    EXPECT_EQ(batch.first_position, step * 12 + 4);
    ASSERT_EQ(batch.samples.size(), 4u);
    for (size_t row = 0; row < 4; ++row) {
      EXPECT_EQ(batch.samples[row], batch.images[row * kSide * kSide * 3]);
      EXPECT_NE(batch.samples[row], 4);  // the sample that took its place is named
    }
  }
}

}  // namespace
}  // namespace clip
