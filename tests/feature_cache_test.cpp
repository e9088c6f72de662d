// Features of locked towers: computed once, found again, never wrong.
#include "models/feature_cache.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>

#include "engine/random.h"
#include "tests/counting_backend.h"
#include "tests/error_message.h"
#include "tests/file_size_limit.h"
#include "tests/scratch_folder.h"
#include "tests/tiny_clip.h"

namespace clip {
namespace {

using Floats = std::vector<float>;
using Names = std::set<std::string>;

constexpr int64_t kRecord = 16 + 3 * 4;  // bytes, of features of width 3

bool holds(FeatureFile& file, int64_t sample, uint64_t input, const Floats& expected) {
  Floats found(3);
  return file.find(sample, input, found.data()) && found == expected;
}

bool is_empty(FeatureFile& file, int64_t sample, uint64_t input) {
  Floats found(3);
  return !file.find(sample, input, found.data());
}

/// Overwrites one byte.
void damage(const std::string& path, int64_t place) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(place);
  const char byte = static_cast<char>(file.get() ^ 1);
  file.seekp(place);
  file.put(byte);
}

TEST(FeatureFile, FindsWhatWasStoredInAnyOrderAndByAnotherProcess) {
  const ScratchFolder folder;
  const std::string path = folder.path("f");
  FeatureFile file(path, 3);
  EXPECT_TRUE(is_empty(file, 0, 1));
  file.store(1000, 7, Floats{1, 2, 3}.data());
  file.store(2, 8, Floats{4, 5, 6}.data());
  for (const int64_t sample : {0, 1, 3, 999, 1001}) EXPECT_TRUE(is_empty(file, sample, 7));
  EXPECT_TRUE(holds(file, 1000, 7, {1, 2, 3}));
  FeatureFile again(path, 3);
  EXPECT_TRUE(holds(again, 1000, 7, {1, 2, 3}));
  EXPECT_TRUE(holds(again, 2, 8, {4, 5, 6}));
  again.store(2, 8, Floats{7, 8, 9}.data());
  EXPECT_TRUE(holds(file, 2, 8, {7, 8, 9}));
  EXPECT_TRUE(file.take_warnings().empty());
}

TEST(FeatureFile, DoesNotUseWhatAnotherInputGave) {
  const ScratchFolder folder;
  FeatureFile file(folder.path("f"), 3);
  file.store(2, 8, Floats{4, 5, 6}.data());
  EXPECT_TRUE(is_empty(file, 2, 9));
  EXPECT_TRUE(file.take_warnings().empty());  // nothing is wrong with the file
}

TEST(FeatureFile, SaysOnceThatARecordIsDamagedAndDoesNotUseIt) {
  for (int64_t place = 2 * kRecord; place < 3 * kRecord; ++place) {
    const ScratchFolder folder;
    const std::string path = folder.path("f");
    FeatureFile file(path, 3);
    for (const int64_t sample : {1, 2, 3}) file.store(sample, 8, Floats{4, 5, 6}.data());
    damage(path, place);
    EXPECT_TRUE(is_empty(file, 2, 8)) << place;
    EXPECT_TRUE(is_empty(file, 2, 8));
    for (const int64_t sample : {1, 3}) EXPECT_TRUE(holds(file, sample, 8, {4, 5, 6}));
    const auto warnings = file.take_warnings();
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_TRUE(says(warnings[0], path, "sample 2 ", "damaged")) << warnings[0];
    file.store(2, 8, Floats{7, 8, 9}.data());
    EXPECT_TRUE(holds(file, 2, 8, {7, 8, 9}));
  }
}

TEST(FeatureFile, DoesNotUseARecordThatWasCutShort) {
  for (int64_t bytes = kRecord + 1; bytes < 2 * kRecord; ++bytes) {
    const ScratchFolder folder;
    const std::string path = folder.path("f");
    FeatureFile file(path, 3);
    for (const int64_t sample : {0, 1}) file.store(sample, 8, Floats{4, 5, 6}.data());
    std::filesystem::resize_file(path, static_cast<uintmax_t>(bytes));
    EXPECT_TRUE(is_empty(file, 1, 8)) << bytes;
    EXPECT_TRUE(holds(file, 0, 8, {4, 5, 6}));
  }
}

TEST(FeatureFile, RecordsOfOtherPlacesAreNotTaken) {
  const ScratchFolder folder;
  const std::string path = folder.path("f");
  FeatureFile(path, 3).store(0, 8, Floats{4, 5, 6}.data());
  std::ifstream in(path, std::ios::binary);
  const std::string record((std::istreambuf_iterator<char>(in)), {});
  folder.write("f", record + record);
  FeatureFile file(path, 3);
  EXPECT_TRUE(holds(file, 0, 8, {4, 5, 6}));
  EXPECT_TRUE(is_empty(file, 1, 8));
}

TEST(FeatureFile, RefusesAPipeAndAMissingFolder) {
  const ScratchFolder folder;
  const std::string pipe = folder.path("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const std::string a = error_message([&] { FeatureFile(pipe, 3); });
  EXPECT_TRUE(says(a, pipe, "no regular file")) << a;
  const std::string missing = folder.path("") + "/none/f";
  const std::string b = error_message([&] { FeatureFile(missing, 3); });
  EXPECT_TRUE(says(b, missing, "No such file")) << b;
}

TEST(FeatureFile, GoesOnWithoutWritingWhereTheFileMayNotGrow) {
  const ScratchFolder folder;
  FeatureFile file(folder.path("f"), 3);
  file.store(0, 8, Floats{4, 5, 6}.data());
  const FileSizeLimit limit(kRecord);
  file.store(1, 8, Floats{4, 5, 6}.data());
  file.store(2, 8, Floats{4, 5, 6}.data());
  const auto warnings = file.take_warnings();
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_TRUE(says(warnings[0], "cannot write the features ", "File too large")) << warnings[0];
  EXPECT_TRUE(holds(file, 0, 8, {4, 5, 6}));
}

// ---- Training ------------------------------------------------------------------------------------

/// Pairs `first` ... of an endless data set, whose pictures and captions are those of their index.
HostBatch host_batch(int64_t first, int64_t rows) {
  HostBatch batch;
  batch.first_position = first;
  for (int64_t row = first; row < first + rows; ++row) {
    const int64_t sample = row % 12;
    Random random(3, static_cast<uint64_t>(sample));
    for (int64_t i = 0; i < 24 * 24 * 3; ++i)
      batch.images.push_back(static_cast<uint8_t>(random.bits()));
    batch.tokens.push_back({62, static_cast<int32_t>(sample), 63});
    batch.samples.push_back(sample);
  }
  return batch;
}

struct Outcome {
  std::vector<double> losses;
  std::vector<float> image_tower, text_tower;
  int64_t gradient_elements = 0;
};

Floats tower_values(const ClipModel& model, bool image) {
  Floats values;
  for (const Parameter& parameter : model.parameters.parameters()) {
    if (!is_locked(parameter.name, {.image = image, .text = !image})) continue;
    const auto value = parameter.variable.value().to_vector<float>();
    values.insert(values.end(), value.begin(), value.end());
  }
  return values;
}

/// Six steps, two epochs; `folder` empty: no features are kept.
Outcome run_of(const LockedTowers& locked, const std::string& folder, int64_t micro_batches = 1,
               uint64_t seed = 3) {
  ClipModel model(tiny_config(), cpu_backend(), DType::kF32, locked);
  initialize(model.parameters, model.clip.config, seed);
  AdamW optimizer(model.parameters, {.max_norm = 1.0});
  std::optional<LockedFeatures> known;
  if (!folder.empty()) known.emplace(model, folder, "twelve pairs", true);
  const auto comm = make_single_communicator();
  Outcome run;
  for (int64_t step = 0; step < 6; ++step) {
    const HostBatch host = host_batch(step * 4, 4);
    auto parts = to_device(host, 24, cpu_backend(), micro_batches);
    if (known) known->fill(parts, host);
    run.losses.push_back(train_step(model, optimizer, parts, 1e-3, *comm).loss());
  }
  if (known) {
    EXPECT_TRUE(known->take_warnings().empty());
  }
  run.image_tower = tower_values(model, true);
  run.text_tower = tower_values(model, false);
  run.gradient_elements = model.parameters.gradients().numel();
  return run;
}

Floats fresh_tower(bool image) {
  ClipModel model(tiny_config(), cpu_backend());
  initialize(model.parameters, model.clip.config, 3);
  return tower_values(model, image);
}

void expect_near(const std::vector<double>& a, const std::vector<double>& b) {
  ASSERT_EQ(a.size(), b.size());
  // Features are rounded at 6e-8; F32 products of other numbers of rows round otherwise.
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 2e-5) << "step " << i;
}

TEST(LockedTowers, KeepTheirBitsAndCostNoGradientWhileTheOthersLearn) {
  const Outcome free = run_of({}, ""), lit = run_of({.image = true}, ""),
                text = run_of({.text = true}, "");
  EXPECT_NE(free.image_tower, fresh_tower(true));
  EXPECT_EQ(lit.image_tower, fresh_tower(true));
  EXPECT_NE(lit.text_tower, fresh_tower(false));
  EXPECT_EQ(text.text_tower, fresh_tower(false));
  EXPECT_NE(text.image_tower, fresh_tower(true));
  // What one locks the other trains; logit_scale is in both.
  EXPECT_EQ(lit.gradient_elements + text.gradient_elements,
            free.gradient_elements + kParameterBlock);
  EXPECT_NE(lit.losses, free.losses);
}

/// Bytes at the peak of a step, parameters included.
int64_t peak_bytes(const LockedTowers& locked) {
  CountingBackend backend;
  ClipModel model(tiny_config(), backend, DType::kF32, locked);
  initialize(model.parameters, model.clip.config, 3);
  AdamW optimizer(model.parameters, {});
  const auto comm = make_single_communicator();
  train_step(model, optimizer, to_device(host_batch(0, 8), 24, backend), 1e-3, *comm);
  return backend.peak();
}

TEST(LockedTowers, NeedNoMemoryForGradientsMomentsAndATape) {
  const auto image_parameters = static_cast<int64_t>(fresh_tower(true).size());
  EXPECT_LT(peak_bytes({.image = true}) + 3 * 4 * image_parameters, peak_bytes({}));
}

TEST(LockedTowers, TrainWithEqualLossesWhereFeaturesAreKept) {
  for (const LockedTowers& locked :
       {LockedTowers{.image = true}, LockedTowers{.text = true}, LockedTowers{true, true}}) {
    const auto expected = run_of(locked, "").losses;
    for (const int64_t micro_batches : {1, 2}) {
      const ScratchFolder folder;
      const std::string features = folder.path("features");
      expect_near(run_of(locked, features, micro_batches).losses, expected);
      expect_near(run_of(locked, features, micro_batches).losses, expected);  // all found
    }
  }
}

Names names_in_folder(const std::string& path) {
  Names names;
  for (const auto& entry : std::filesystem::directory_iterator(path))
    names.insert(entry.path().filename().string());
  return names;
}

TEST(LockedFeatures, AreReadAfterARestartAndNotComputedAgain) {
  const ScratchFolder folder;
  const std::string features = folder.path("features");
  const auto expected = run_of({.image = true}, features).losses;
  const Names names = names_in_folder(features);
  ASSERT_EQ(names.size(), 1u);
  const std::string path = features + "/" + *names.begin();
  EXPECT_EQ(std::filesystem::file_size(path), 12u * (16 + 24 * 4));
  // Features that no tower gives, well written: that they are used shows that nothing is computed.
  const auto planted_input = [](int64_t sample) {
    const HostBatch host = host_batch(sample, 1);
    return random_stream({reinterpret_cast<const char*>(host.images.data()), host.images.size()});
  };
  FeatureFile file(path, 24);
  for (int64_t sample = 0; sample < 12; ++sample) {
    Floats unit(24, 0);
    unit[static_cast<size_t>(sample)] = 1;
    file.store(sample, planted_input(sample), unit.data());
  }
  const auto planted = run_of({.image = true}, features).losses;
  EXPECT_GT(std::abs(planted[0] - expected[0]), 1e-3);
}

TEST(LockedFeatures, OfOtherWeightsAreNotUsed) {
  const ScratchFolder folder;
  const std::string features = folder.path("features");
  run_of({.image = true}, features, 1, 4);
  expect_near(run_of({.image = true}, features, 1, 3).losses, run_of({.image = true}, "").losses);
  EXPECT_EQ(names_in_folder(features).size(), 2u);
}

TEST(LockedFeatures, ThatAreDamagedAreComputedAgainAndThatIsSaid) {
  const ScratchFolder folder;
  const std::string features = folder.path("features");
  const auto expected = run_of({.image = true}, features).losses;
  damage(features + "/" + *names_in_folder(features).begin(), 40);
  ClipModel model(tiny_config(), cpu_backend(), DType::kF32, {.image = true});
  initialize(model.parameters, model.clip.config, 3);
  LockedFeatures known(model, features, "twelve pairs", true);
  const HostBatch host = host_batch(0, 4);
  auto parts = to_device(host, 24, cpu_backend());
  known.fill(parts, host);
  EXPECT_EQ(known.take_warnings().size(), 1u);
  expect_near(run_of({.image = true}, features).losses, expected);  // whole again
}

}  // namespace
}  // namespace clip
