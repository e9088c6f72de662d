// apps/train started by mpirun, as a user would: what it trains, and how it ends.
#include <signal.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "models/clip.h"
#include "tests/child_process.h"
#include "tests/run_command.h"
#include "tests/train_app_test.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

class MpiTrainApp : public TrainApp {
 protected:
  void SetUp() override {
    if (mpirun(1).empty()) GTEST_SKIP() << "no mpirun";
  }

  /// Trains on pairs.csv, `pairs` of a rank's micro-batch.
  Strings arguments(const std::string& name, int64_t pairs, const Strings& own) const {
    return with({"--model", "m.json", "--train-data", "pairs.csv", "--device", "cpu", "--name",
                 name, "--batch-size", concat(pairs), "--workers", "1", "--log-every-n-steps", "1",
                 "--save-frequency", "0"},
                own);
  }
  AppResult train_on(int64_t ranks, const Strings& all) const {
    return AppProcess("train", all, folder_, ".stdout", mpirun(ranks)).wait();
  }

  /// Expects the same steps, batches and results; losses of F32 sums cut in other places.
  void expect_close_runs(const std::string& actual, const std::string& expected) const {
    const auto a = log(actual), b = log(expected);
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a[i]["step"], b[i]["step"]);
      EXPECT_EQ(a[i].contains("eval"), b[i].contains("eval"));
      if (a[i].contains("eval")) continue;
      const double loss = b[i]["loss"];
      EXPECT_NEAR(a[i]["loss"].get<double>(), loss, 1e-6 * loss) << actual << ", line " << i;
      for (const char* key : {"loss_floor", "loss_chance", "lr", "in_batch_top1"})
        EXPECT_EQ(a[i][key], b[i][key]) << key;
    }
  }

  std::vector<float> values(const std::string& name, int64_t step) const {
    const std::string path = checkpoint(name, step);
    ClipModel model(load_config(path), cpu_backend());
    load_parameters(path, model.parameters);
    return model.parameters.values().to_vector<float>();
  }

  /// What a failed job says that is ours; the launcher adds its own.
  static Strings sentences(const std::string& err) {
    Strings ours = lines_of(err);
    std::erase_if(ours, [](const std::string& line) { return !line.starts_with("train: "); });
    return ours;
  }

  /// Expects the job to end with one sentence of ours that holds all `parts`.
  static void expect_told_once(const AppResult& result, int status, const Strings& parts) {
    EXPECT_EQ(result.status, status) << result.err;
    const Strings ours = sentences(result.err);
    ASSERT_EQ(ours.size(), 1u) << result.err;
    for (const std::string& part : parts)
      EXPECT_NE(ours[0].find(part), std::string::npos) << part << " is not in: " << ours[0];
  }
};

TEST_F(MpiTrainApp, TrainsWithTheLossesOfOneProcessOnTheWholeBatch) {
  write_pairs(folder_, "held-out", 10);
  const Strings own = {"--steps", "20", "--val-data", "held-out.csv"};
  ASSERT_EQ(run_app("train", arguments("whole", 12, own), folder_).status, 0);
  const std::vector<float> expected = values("whole", 20);
  struct Split {
    int64_t ranks, pairs, micro_batches;
  };
  for (const Split& split : {Split{1, 12, 1}, Split{2, 6, 1}, Split{3, 4, 1}, Split{3, 2, 2}}) {
    const std::string name = concat(split.ranks, "x", split.micro_batches);
    Strings all = own;
    all.insert(all.end(), {"--accum-freq", concat(split.micro_batches)});
    const AppResult result = train_on(split.ranks, arguments(name, split.pairs, all));
    ASSERT_EQ(result.status, 0) << result.err;
    EXPECT_EQ(result.err, "");
    expect_close_runs(name, "whole");
    const std::vector<float> actual = values(name, 20);
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      // An AdamW step is lr = 5e-4 whatever the gradient's size, so the roundings of gradients near
      // 0 are enlarged; a step in the other direction would be 100 times this.
      ASSERT_NEAR(actual[i], expected[i], 1e-5) << name << ", parameter " << i;
    }
    EXPECT_EQ(checkpoints(name), Names{"step_20"});
    EXPECT_EQ(names_in(checkpoint(name, 20)), kFiles);
  }
  EXPECT_EQ(log("3x1").back()["eval"], log("whole").back()["eval"]);
}

TEST_F(MpiTrainApp, PrintsOnceAndSaysWhoTrains) {
  const AppResult result = train_on(2, arguments("a", 4, {"--steps", "2"}));
  ASSERT_EQ(result.status, 0) << result.err;
  const Strings lines = lines_of(result.out);
  EXPECT_EQ(std::count_if(lines.begin(), lines.end(),
                          [](const std::string& line) { return line.starts_with("step "); }),
            2)
      << result.out;
  expect_contains(result.out, "2 steps of 8 pairs");
  expect_contains(result.out, "ranks       2, 1 thread each");
  EXPECT_EQ(log("a").size(), 2u);
}

TEST_F(MpiTrainApp, SaysHowManyPairsABatchNormSees) {
  folder_.write("m.json", kSmallResNet);
  const AppResult result = train_on(2, arguments("a", 4, {"--steps", "1", "--accum-freq", "3"}));
  ASSERT_EQ(result.status, 0) << result.err;
  expect_contains(result.out, "each micro-batch of 8 pairs is normalised by itself");
}

TEST_F(MpiTrainApp, GoesOnWithTheSameBatchesOnAnotherNumberOfRanks) {
  ASSERT_EQ(run_app("train", arguments("whole", 12, {"--steps", "10"}), folder_).status, 0);
  // Up to step 5 on two ranks; the schedule is that of ten steps.
  ASSERT_EQ(train_on(2, arguments("a", 6, {"--steps", "10", "--save-steps", "5"})).status, 0);
  const AppResult result =
      train_on(3, {"--resume", "runs/a/checkpoints/step_5", "--name", "b", "--batch-size", "4"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.out.find("pairs before step"), std::string::npos) << result.out;
  const auto whole = log("whole"), resumed = log("b");
  ASSERT_EQ(resumed.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    const double loss = whole[i + 5]["loss"];
    EXPECT_NEAR(resumed[i]["loss"].get<double>(), loss, 1e-6 * loss);
  }

  const AppResult other =
      train_on(3, {"--resume", "runs/a/checkpoints/step_5", "--name", "c", "--batch-size", "6"});
  ASSERT_EQ(other.status, 0) << other.err;
  expect_contains(other.out, "a step had 12 pairs before step 5");
}

TEST_F(MpiTrainApp, TellsOnceWhatEveryRankRunsInto) {
  expect_told_once(train_on(3, {"--bogus", "1"}), 2, {"train: rank 0: ", "bogus"});
  expect_told_once(train_on(2, {"--train-data", "absent.csv"}), 1,
                   {"train: rank 0: ", "absent.csv"});
  const AppResult help = train_on(2, {"--help"});
  EXPECT_EQ(help.status, 0) << help.err;
  EXPECT_NE(help.out.find("Example:"), std::string::npos) << help.out;
  EXPECT_EQ(help.out.find("Example:"), help.out.rfind("Example:")) << help.out;
  EXPECT_FALSE(fs::exists(folder_.path("runs")));
}

TEST_F(MpiTrainApp, RefusesRanksThatWereStartedDifferently) {
  fs::create_directories(folder_.path("other"));
  std::string wider = kSmallModel;
  wider.replace(wider.find("\"width\": 32"), 11, "\"width\": 64");
  folder_.write("other/m.json", wider);
  const std::string train = app_path("train");
  const auto started = [&](const std::string& first, const std::string& second,
                           const std::string& second_folder) {
    const std::string common = " --model m.json --device cpu --steps 2 --name a " + first;
    const CommandResult result = run_command(
        concat("cd ", folder_.path(), " && ", mpirun_line(1), train, common, " : -np 1 -wdir ",
               folder_.path(second_folder), " ", train, common, " ", second));
    return AppResult{result.status, "", result.output};
  };
  expect_told_once(started("", "--batch-size 8", "."), 1,
                   {"train: rank 1: --batch-size is 8 here and 128 on rank 0"});
  expect_told_once(started("--batch-size 8", "", "other"), 1,
                   {"train: rank 1: ", "vision_cfg/width is 64 here and 32 on rank 0"});
  EXPECT_FALSE(fs::exists(folder_.path("runs")));
}

/// Processes that `parent` has started: the ranks of an mpirun.
std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> children;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string stat = file_bytes(entry.path() / "stat");
    const size_t after_name = stat.rfind(')');  // pid (name) state parent ...
    if (after_name != std::string::npos && std::stoi(stat.substr(after_name + 4)) == parent)
      children.push_back(std::stoi(name));
  }
  std::sort(children.begin(), children.end());
  return children;
}

class MpiTrainSignals : public MpiTrainApp {
 protected:
  /// Sends a signal to rank 1 of a long run when it has logged 20 steps.
  AppResult signal_rank_one(const std::string& name, int signal) const {
    AppProcess job("train", arguments(name, 4, {"--steps", "100000"}), folder_, ".stdout",
                   mpirun(3));
    const auto logged = [&] {
      const std::string text = file_bytes(run_path(name) + "/log.jsonl");
      return std::count(text.begin(), text.end(), '\n');
    };
    while (logged() < 20 && !job.has_ended())
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    const auto ranks = children_of(job.id());
    CLIP_CHECK(ranks.size() == 3, "mpirun has ", ranks.size(), " children");
    ::kill(ranks[1], signal);
    const auto sent = std::chrono::steady_clock::now();
    const AppResult result = job.wait();
    EXPECT_LT(std::chrono::steady_clock::now() - sent, std::chrono::seconds(10));
    return result;
  }
};

TEST_F(MpiTrainSignals, AskingOneRankStopsAllAfterTheSameStepWithACheckpoint) {
  const AppResult stopped = signal_rank_one("a", SIGTERM);
  EXPECT_EQ(stopped.status, 0) << stopped.err;
  expect_contains(stopped.out, "go on with ./apps/train --resume runs/a");
  const auto steps = log("a");
  EXPECT_EQ(checkpoints("a"), Names{concat("step_", steps.size())});
  EXPECT_EQ(names_in(run_path("a") + "/checkpoints/" + checkpoints("a")[0]), kFiles);
  const AppResult resumed =
      train_on(2, {"--resume", "runs/a", "--batch-size", "6", "--steps", concat(steps.size() + 2)});
  EXPECT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_EQ(log("a").size(), steps.size() + 2);
}

TEST_F(MpiTrainSignals, KillingOneRankEndsAll) {
  const AppResult killed = signal_rank_one("a", SIGKILL);
  EXPECT_EQ(killed.status, 128 + SIGKILL) << killed.err;
  expect_contains(killed.err, "rank 1");  // the launcher's words: the dead cannot speak
  EXPECT_FALSE(holds_temporaries(run_path("a")));
}

TEST_F(MpiTrainApp, AFullDiskEndsAllRanks) {
  fs::create_directories(folder_.path("runs"));
  const int status = in_child([&] {
    if (!mount_small_disk(folder_.path("runs"), 400 << 10)) return kCannotTest;
    return train_on(2, arguments("a", 4, {"--steps", "6", "--save-steps", "2"})).status;
  });
  if (status == kCannotTest) GTEST_SKIP() << "a tmpfs cannot be mounted here";
  expect_told_once({status, "", file_bytes(folder_.path(".stderr"))}, 1,
                   {"train: rank 0: ", "runs/a/checkpoints/step_2", "No space left"});
}

}  // namespace
}  // namespace clip
