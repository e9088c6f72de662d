// apps/train stopped, killed and resumed: as if it had never been interrupted.
#include <signal.h>

#include <chrono>
#include <thread>

#include "models/clip.h"
#include "tests/train_app_test.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

/// Lines that a run has logged so far.
int64_t logged(const std::string& run) {
  const std::string text = file_bytes(run + "/log.jsonl");
  return std::count(text.begin(), text.end(), '\n');
}

/// Waits until the run has logged more than `lines`, or the program has ended.
void wait_for_log(AppProcess& program, const std::string& run, int64_t lines) {
  while (logged(run) <= lines && !program.has_ended())
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

class TrainResume : public TrainApp {
 protected:
  static constexpr int64_t kSteps = 600;  // so many that signals come long before the end
  static Strings long_run(const std::string& name) {
    return options({"--train-data", "pairs.csv", "--name", name, "--steps", concat(kSteps),
                    "--log-every-n-steps", "1"});
  }

  void stop_in_the_middle_and_resume(const std::string& name, int signal) const {
    AppProcess program("train", long_run(name), folder_);
    wait_for_log(program, run_path(name), 20);
    program.send(signal);
    const AppResult stopped = program.wait();
    EXPECT_EQ(stopped.status, 0) << stopped.err;
    expect_contains(stopped.out, "go on with ./apps/train --resume runs/" + name);
    ASSERT_EQ(checkpoints(name).size(), 1u);
    ASSERT_NE(checkpoints(name)[0], concat("step_", kSteps)) << "ended before the signal came";
    EXPECT_EQ(names_in(run_path(name) + "/checkpoints/" + checkpoints(name)[0]), kFiles);
    EXPECT_EQ(concat("step_", logged(run_path(name))), checkpoints(name)[0]);
    expect_contains(file_bytes(run_path(name) + "/report.html"), "Loss, nats");
    const AppResult resumed = resume({"runs/" + name});
    EXPECT_EQ(resumed.status, 0) << resumed.err;
  }
};

TEST_F(TrainResume, StoppedBySigtermOrCtrlCItGoesOnBitForBit) {
  ASSERT_EQ(run_app("train", long_run("whole"), folder_).status, 0);
  EXPECT_EQ(logged(run_path("whole")), kSteps);
  stop_in_the_middle_and_resume("terminated", SIGTERM);
  expect_equal_runs("whole", "terminated", kSteps);
  stop_in_the_middle_and_resume("interrupted", SIGINT);
  expect_equal_runs("whole", "interrupted", kSteps);
}

// Loads every file of the newest checkpoint; returns its step, 0 if there is none yet.
int64_t step_of_whole_checkpoint(const std::string& run) {
  const auto newest = newest_checkpoint(run);
  if (!newest) return 0;
  ClipModel model(load_config(*newest), cpu_backend());
  model.parameters.allocate_training_state();
  load_tokenizer(*newest);
  load_parameters(*newest, model.parameters);
  const int64_t step = load_training_state(*newest, model.parameters).step;
  EXPECT_EQ(fs::path(*newest).filename(), concat("step_", step));
  return step;
}

// Of all checkpoints, temporaries aside.
Names whole_names(const std::string& run) {
  if (!fs::exists(run + "/checkpoints")) return {};
  Names names = names_in(run + "/checkpoints");
  std::erase_if(names, [](const std::string& name) { return name.starts_with('.'); });
  return names;
}

TEST_F(TrainResume, KilledTenTimesItFindsAWholeCheckpointAndGoesOnBitForBit) {
  const auto arguments = [](const std::string& name) {
    return options({"--train-data", "pairs.csv", "--name", name, "--steps", "160", "--save-steps",
                    "2", "--delete-previous-checkpoint", "--log-every-n-steps", "1"});
  };
  const auto clock = std::chrono::steady_clock::now().time_since_epoch().count();
  const auto seed = static_cast<uint64_t>(clock);
  SCOPED_TRACE(concat("seed of the moments: ", seed));
  Random random(seed, 0);
  const std::string run = run_path("killed");
  int64_t step = 0, advanced = 0;
  for (int64_t kill = 0; kill < 10; ++kill) {
    const bool exists = fs::exists(run);
    const int64_t lines = logged(run);
    AppProcess program("train", exists ? Strings{"--resume", "runs/killed"} : arguments("killed"),
                       folder_);
    // Every third dies early: while it loads, before its first step or checkpoint.
    const bool early = kill % 3 == 0;
    if (!early) wait_for_log(program, run, lines + random.below(8));
    std::this_thread::sleep_for(std::chrono::microseconds(random.below(early ? 60'000 : 6'000)));
    program.send(SIGKILL);
    const AppResult killed = program.wait();
    ASSERT_EQ(killed.status, 128 + SIGKILL) << killed.err;
    for (const std::string& name : whole_names(run))
      EXPECT_EQ(names_in(run + "/checkpoints/" + name), kFiles);
    const int64_t reached = step_of_whole_checkpoint(run);
    EXPECT_GE(reached, step);
    advanced += reached > step ? 1 : 0;
    step = reached;
  }
  EXPECT_GE(advanced, 3) << "hardly any of the runs got anywhere";
  const AppResult last = resume({"runs/killed"});
  ASSERT_EQ(last.status, 0) << last.err;
  EXPECT_FALSE(holds_temporaries(run));

  ASSERT_EQ(run_app("train", arguments("whole"), folder_).status, 0);
  expect_equal_runs("whole", "killed", 160);
}

TEST_F(TrainResume, RefusesARunThatAnotherProcessTrainsUntilThatIsKilled) {
  const std::string run = run_path("a");
  AppProcess program("train",
                     options({"--train-data", "pairs.csv", "--name", "a", "--steps", "100000",
                              "--log-every-n-steps", "1"}),
                     folder_);
  wait_for_log(program, run, 20);
  expect_refused(resume({"runs/a"}), "train", 1, {"runs/a", "is being trained by another process"});
  const int64_t lines = logged(run);
  EXPECT_GT(lines, 20);
  wait_for_log(program, run, lines);
  ASSERT_FALSE(program.has_ended()) << "it must have been training all the while";
  program.send(SIGKILL);
  program.wait();
  const AppResult resumed = resume({"runs/a", "--steps", "2"});
  EXPECT_EQ(resumed.status, 0) << resumed.err;
}

TEST_F(TrainResume, FromACheckpointOfARunGoesOnBitForBit) {
  ASSERT_EQ(train("whole", {"--steps", "12", "--save-steps", "5"}).status, 0);
  ASSERT_EQ(train("a", {"--steps", "12", "--save-steps", "5"}).status, 0);
  fs::remove_all(checkpoint("a", 12));
  const AppResult resumed = resume({"runs/a/checkpoints/step_10"});
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  expect_contains(resumed.out, "2 steps of 8 pairs");
  expect_equal_runs("whole", "a", 12);
}

TEST_F(TrainResume, RefusesAnOlderCheckpointUnlessTheRunGetsANewName) {
  ASSERT_EQ(train("a", {"--steps", "6", "--save-steps", "2"}).status, 0);
  const std::string log_before = file_bytes(run_path("a") + "/log.jsonl");
  expect_refused(resume({"runs/a/checkpoints/step_4"}), "train", 2, {"step_6", "newer", "--name"});
  EXPECT_EQ(file_bytes(run_path("a") + "/log.jsonl"), log_before);
  const AppResult renamed = resume({"runs/a/checkpoints/step_4", "--name", "b"});
  ASSERT_EQ(renamed.status, 0) << renamed.err;
  EXPECT_EQ(checkpoints("b"), Names{"step_6"});
  EXPECT_TRUE(weights("b", 6) == weights("a", 6));
  EXPECT_TRUE(state("b", 6) == state("a", 6));
  EXPECT_EQ(checkpoints("a"), (Names{"step_2", "step_4", "step_6"}));
  expect_refused(resume({"runs/a", "--name", "b"}), "train", 1, {"runs/b exists"});
}

TEST_F(TrainResume, AReportThatCannotBeWrittenIsSaidAndEndsNoTraining) {
  ASSERT_EQ(train("a", {"--steps", "1"}).status, 0);
  folder_.write("runs/a/samples/captions.json", "{");
  const AppResult resumed = resume({"runs/a", "--steps", "3", "--save-steps", "1"});
  EXPECT_EQ(resumed.status, 0) << resumed.err;
  expect_contains(resumed.err, "train: cannot write runs/a/report.html");
  EXPECT_EQ(checkpoints("a"), (Names{"step_1", "step_2", "step_3"}));
}

TEST_F(TrainResume, LatestIsTheRunThatWasWrittenToLast) {
  ASSERT_EQ(train("b", {"--steps", "2"}).status, 0);
  ASSERT_EQ(train("a", {"--steps", "2"}).status, 0);
  ASSERT_EQ(resume({"latest", "--steps", "3"}).status, 0);
  EXPECT_EQ(checkpoints("a"), (Names{"step_2", "step_3"}));
  EXPECT_EQ(checkpoints("b"), Names{"step_2"});
  ASSERT_EQ(resume({"latest", "--name", "b", "--steps", "4"}).status, 0);
  EXPECT_EQ(checkpoints("b"), (Names{"step_2", "step_4"}));
}

TEST_F(TrainResume, WithoutACheckpointYetARunStartsOverWithItsOptions) {
  ASSERT_EQ(train("a", {"--steps", "4", "--lr", "0.002"}).status, 0);
  ASSERT_EQ(train("b", {"--steps", "4", "--lr", "0.002"}).status, 0);
  fs::remove_all(run_path("b") + "/checkpoints");  // as if killed before
  const AppResult resumed = resume({"latest"});
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  expect_contains(resumed.out, "runs/b, 4 steps");
  expect_equal_runs("a", "b", 4);
}

TEST_F(TrainResume, OfAFinishedRunMeasuresItAgainAndLogsThatOnce) {
  ASSERT_EQ(train("a", {"--steps", "3", "--val-data", "pairs"}).status, 0);
  const auto before = log("a");
  const std::string bits = weights("a", 3);
  const AppResult resumed = resume({"runs/a"});
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  expect_contains(resumed.out, "Retrieval R@1 on --val-data");
  EXPECT_EQ(log("a"), before);
  EXPECT_TRUE(weights("a", 3) == bits);
}

TEST_F(TrainResume, RefusesARunThatIsBeyondTheStepsAskedFor) {
  ASSERT_EQ(train("a", {"--steps", "3"}).status, 0);
  const std::string config = file_bytes(run_path("a") + "/config.json");
  expect_refused(resume({"runs/a", "--steps", "2"}), "train", 1, {"at step 3", "2 steps"});
  EXPECT_EQ(file_bytes(run_path("a") + "/config.json"), config);
}

TEST_F(TrainResume, RefusesWhatHoldsNoTrainingState) {
  ASSERT_EQ(train("a", {"--steps", "2"}).status, 0);
  fs::remove(checkpoint("a", 2) + kState);
  expect_refused(resume({"runs/a", "--steps", "3"}), "train", 1,
                 {"weights only", "training_state.safetensors"});
  expect_refused(resume({"nowhere"}), "train", 1, {"there is no checkpoint or run nowhere"});
  expect_refused(resume({"latest", "--logs", "nowhere"}), "train", 1, {"no run under nowhere"});
}

}  // namespace
}  // namespace clip
