// What the tests of apps/train share: a folder with a small model and pairs, and runs in it.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/app_process.h"
#include "tests/app_samples.h"
#include "tests/small_checkpoint.h"

namespace clip {

class TrainApp : public testing::Test {
 protected:
  TrainApp() {
    folder_.write("m.json", kSmallModel);
    write_pairs(folder_, "pairs", 24);
  }

  /// Options that every run has, besides its own.
  static Strings options(const Strings& own) {
    return with(
        {"--model", "m.json", "--batch-size", "8", "--device", "cpu", "--save-frequency", "0"},
        own);
  }

  /// Trains on pairs.csv as run `name`.
  AppResult train(const std::string& name, const Strings& own) const {
    return run_app("train", with(options({"--train-data", "pairs.csv", "--name", name}), own),
                   folder_);
  }

  AppResult resume(const Strings& arguments) const {
    return run_app("train", with({"--resume"}, arguments), folder_);
  }

  std::string run_path(const std::string& name) const { return folder_.path() + "/runs/" + name; }
  std::string checkpoint(const std::string& name, int64_t step) const {
    return concat(run_path(name), "/checkpoints/step_", step);
  }
  std::string weights(const std::string& name, int64_t step) const {
    return file_bytes(checkpoint(name, step) + kWeights);
  }
  std::string state(const std::string& name, int64_t step) const {
    return file_bytes(checkpoint(name, step) + kState);
  }
  Names checkpoints(const std::string& name) const {
    return names_in(run_path(name) + "/checkpoints");
  }

  std::vector<nlohmann::json> log(const std::string& name) const {
    std::vector<nlohmann::json> entries;
    for (const std::string& line : lines_of(file_bytes(run_path(name) + "/log.jsonl")))
      entries.push_back(nlohmann::json::parse(line));
    return entries;
  }

  /// The log without what depends on the clock.
  std::vector<nlohmann::json> timeless_log(const std::string& name) const {
    auto entries = log(name);
    for (nlohmann::json& entry : entries) entry.erase("pairs_per_s");
    return entries;
  }

  /// Expects both runs to stand at `step` with equal bits, and to have logged the same.
  void expect_equal_runs(const std::string& a, const std::string& b, int64_t step) const {
    ASSERT_FALSE(weights(a, step).empty());
    ASSERT_FALSE(state(a, step).empty());
    EXPECT_TRUE(weights(a, step) == weights(b, step));
    EXPECT_TRUE(state(a, step) == state(b, step));
    EXPECT_EQ(timeless_log(a), timeless_log(b));
  }

  ScratchFolder folder_;
};

}  // namespace clip
