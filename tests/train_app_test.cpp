// apps/train from outside: options, what it prints, what a run's folder holds.
#include "tests/train_app_test.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>

#include "models/clip.h"
#include "models/safetensors.h"
#include "tests/run_command.h"

namespace clip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

TEST_F(TrainApp, HelpShowsDefaultsAndAnExample) {
  const AppResult result = run_app("train", {"--help"}, folder_);
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.err, "");
  for (const char* part : {"./apps/train --train-data", "--model arg (=emoji)",
                           "--batch-size arg (=", "--wd arg (=", "--resume",
                           "With --train-data the defaults are --model tiny"})
    expect_contains(result.out, part);
}

TEST_F(TrainApp, ZeroStepsWriteTheInitialCheckpoint) {
  const AppResult result = train("a", {"--steps", "0", "--seed", "3"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(checkpoints("a"), Names{"step_0"});
  EXPECT_EQ(names_in(checkpoint("a", 0)), kFiles);

  const ClipConfig config = load_config(checkpoint("a", 0));
  ClipModel saved(config, cpu_backend()), fresh(config, cpu_backend());
  saved.parameters.allocate_training_state();
  load_parameters(checkpoint("a", 0), saved.parameters);
  initialize(fresh.parameters, config, 3);
  EXPECT_EQ(saved.parameters.values().to_vector<float>(),
            fresh.parameters.values().to_vector<float>());
  const TrainingState state = load_training_state(checkpoint("a", 0), saved.parameters);
  EXPECT_EQ(state.step, 0);
  EXPECT_EQ(state.seed, 3u);
}

TEST_F(TrainApp, ARunsFolderHoldsOptionsLogAndCheckpoints) {
  const AppResult result =
      train("a", {"--steps", "5", "--save-steps", "2", "--log-every-n-steps", "1", "--lr", "0.002",
                  "--warmup", "2", "--val-data", "pairs.tsv"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(names_in(run_path("a")),
            (Names{".lock", "checkpoints", "config.json", "log.jsonl", "report.html"}));
  EXPECT_EQ(checkpoints("a"), (Names{"step_2", "step_4", "step_5"}));
  for (const std::string& name : checkpoints("a"))
    EXPECT_EQ(names_in(run_path("a") + "/checkpoints/" + name), kFiles);

  const json config = json::parse(file_bytes(run_path("a") + "/config.json"));
  EXPECT_EQ(config["lr"], 0.002);
  EXPECT_EQ(config["steps"], 5);
  EXPECT_EQ(config["train-data"], "pairs.csv");

  const auto entries = log("a");
  ASSERT_EQ(entries.size(), 6u);
  for (size_t i = 0; i < 5; ++i) {
    const json& entry = entries[i];
    EXPECT_EQ(entry["step"], i + 1);
    for (const char* key : {"loss", "loss_floor", "logit_scale", "lr", "grad_norm", "pairs_per_s"})
      EXPECT_TRUE(entry[key].is_number()) << key;
    EXPECT_EQ(entry["loss_floor"], 0);  // every caption is another
    EXPECT_GT(entry["loss"], 0);
  }
  EXPECT_EQ(entries[0]["lr"], 0.001);
  EXPECT_EQ(entries[1]["lr"], 0.002);
  EXPECT_EQ(entries[5]["step"], 5);
  EXPECT_EQ(entries[5]["eval"]["text_of_image"]["tried"], 24);
  const std::string report = file_bytes(run_path("a") + "/report.html");
  expect_contains(report, "Evaluation after step 5");
  expect_contains(report, ">--lr</th><td class=\"n\">0.002<");
}

/// One line of the table that --profile prints.
struct ProfileLine {
  std::string calls, gflop_per_s, gb_per_s;
  double milliseconds = 0, share = 0;
};

/// The table in what a program prints, by name; "total" is its last line.
std::map<std::string, ProfileLine> profile_in(const std::string& out) {
  std::map<std::string, ProfileLine> table;
  const Strings lines = lines_of(out);
  auto line = std::find_if(lines.begin(), lines.end(), [](const std::string& text) {
    return text.starts_with("op ") && text.ends_with(" share");
  });
  while (line != lines.end() && !table.contains("total") && ++line != lines.end()) {
    constexpr size_t kNameWidth = 34;
    std::string name = line->substr(0, kNameWidth);
    name.erase(name.find_last_not_of(' ') + 1);
    ProfileLine& row = table[name];
    std::istringstream(line->substr(kNameWidth)) >> row.calls >> row.milliseconds >>
        row.gflop_per_s >> row.gb_per_s >> row.share;
  }
  return table;
}

TEST_F(TrainApp, TellsWhereTheTimeOfItsStepsWentIfAsked) {
  const Strings plain = {"--steps", "3", "--val-data", "pairs.tsv"};
  const AppResult result = train("a", with(plain, {"--profile"}));
  ASSERT_EQ(result.status, 0) << result.err;
  auto table = profile_in(result.out);
  double shares = 0;
  for (const auto& [name, row] : table)
    if (name != "total") shares += row.share;
  EXPECT_NEAR(shares, 100, 0.05 * static_cast<double>(table.size())) << result.out;  // as rounded
  EXPECT_EQ(table["total"].share, 100);
  EXPECT_GT(table["linear"].milliseconds, 0);
  EXPECT_NE(table["linear backward"].gflop_per_s, "-");
  EXPECT_EQ(table["bias_gelu"].gflop_per_s, "-");
  EXPECT_NE(table["bias_gelu"].gb_per_s, "-");
  EXPECT_EQ(table["l2_normalize"].calls, "2");  // those of the evaluation are not counted
  for (const char* name : {"clip_loss", "copy", "loader", "log, checkpoint", "optimizer", "reduce"})
    EXPECT_EQ(table[name].calls, "1") << name;
  ASSERT_EQ(train("b", plain).status, 0);
  expect_equal_runs("a", "b", 3);
}

TEST_F(TrainApp, ProfilesWhatIsComputedAgain) {
  const AppResult result =
      train("a", {"--steps", "2", "--accum-freq", "2", "--grad-checkpointing", "--profile"});
  ASSERT_EQ(result.status, 0) << result.err;
  auto table = profile_in(result.out);
  // Two micro-batches of two blocks: once for the features, again for the tape, again in backward.
  EXPECT_EQ(table["attention"].calls, "12") << result.out;
  EXPECT_EQ(table["attention backward"].calls, "4");
  EXPECT_EQ(table["recompute backward"].calls, "4");
}

TEST_F(TrainApp, PrintsPlainLinesWhereThereIsNoTerminal) {
  const AppResult result = train("a", {"--steps", "20"});
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.err, "");
  EXPECT_EQ(result.out.find_first_of("\r\033"), std::string::npos);
  int64_t steps = 0;
  for (const std::string& line : lines_of(result.out)) {
    if (!line.starts_with("step ")) continue;
    ++steps;
    for (const char* part : {"loss", "floor", "ln G 2.079", "scale", "top-1", "pairs/s", "left"})
      expect_contains(line, part);
  }
  EXPECT_EQ(steps, 3);  // 1, 10, 20
}

TEST_F(TrainApp, SaysWhyItTakesTheCpuWhereNoneWasNamed) {
  const AppResult chosen = run_app("train",
                                   {"--train-data", "pairs.csv", "--model", "m.json",
                                    "--batch-size", "8", "--steps", "1", "--device", "auto"},
                                   folder_);
  const AppResult named = train("b", {"--steps", "1"});
  ASSERT_EQ(chosen.status, 0) << chosen.err;
  const std::string why = why_the_cpu();
  EXPECT_EQ(chosen.out.find("\ndevice      " + why) != std::string::npos, !why.empty())
      << chosen.out;
  EXPECT_EQ(named.out.find("\ndevice "), std::string::npos) << named.out;
}

TEST_F(TrainApp, RenewsOneLineOnATerminal) {
  const FileDescriptor terminal(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!terminal.is_open() || ::grantpt(terminal.number()) != 0 ||
      ::unlockpt(terminal.number()) != 0)
    GTEST_SKIP() << "no terminal can be made here";
  const std::string name = ::ptsname(terminal.number());
  // Held open, so that what was printed can be read after the program has ended.
  const FileDescriptor other_end(::open(name.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  AppProcess program("train",
                     options({"--train-data", "pairs.csv", "--steps", "20", "--name", "a"}),
                     folder_, name);
  while (!program.has_ended()) ::usleep(1000);
  std::string out(4096, '\0');
  const ssize_t bytes = ::read(terminal.number(), out.data(), out.size());
  out.resize(static_cast<size_t>(std::max<ssize_t>(bytes, 0)));
  expect_contains(out, "\r\033[Kstep     1/20");
  expect_contains(out, "left\r\033[Kstep    10/20");
  expect_contains(out, "left\r\033[Kstep    20/20");
}

TEST_F(TrainApp, TwoRunsHaveEqualBits) {
  ASSERT_EQ(train("a", {"--steps", "12", "--workers", "1"}).status, 0);
  ASSERT_EQ(train("b", {"--steps", "12", "--workers", "1"}).status, 0);
  expect_equal_runs("a", "b", 12);
  ASSERT_EQ(train("c", {"--steps", "12", "--workers", "0"}).status, 0);
  EXPECT_TRUE(weights("a", 12) == weights("c", 12));
  ASSERT_EQ(train("d", {"--steps", "12", "--seed", "1"}).status, 0);
  EXPECT_FALSE(weights("a", 12) == weights("d", 12));
}

/// The dtypes of a checkpoint's file.
std::set<std::string> dtypes_of(const std::string& path) {
  std::set<std::string> dtypes;
  const SafetensorsFile file(path);
  for (const auto& [name, entry] : file.entries()) dtypes.insert(entry.dtype);
  return dtypes;
}

TEST_F(TrainApp, InBF16ItKeepsF32AndGoesOnBitForBit) {
  const Strings bf16 = {"--precision",  "bf16", "--steps",      "12",
                        "--accum-freq", "2",    "--save-steps", "5"};
  const AppResult whole = train("whole", bf16);
  ASSERT_EQ(whole.status, 0) << whole.err;
  expect_contains(whole.out, "on cpu in bf16");
  for (const char* file : {kWeights, kState})
    EXPECT_EQ(dtypes_of(checkpoint("whole", 12) + file), std::set<std::string>{"F32"});
  ASSERT_EQ(train("cut", bf16).status, 0);
  for (const int64_t step : {10, 12}) fs::remove_all(checkpoint("cut", step));
  ASSERT_EQ(resume({"runs/cut"}).status, 0);
  EXPECT_TRUE(weights("whole", 12) == weights("cut", 12));
  EXPECT_TRUE(state("whole", 12) == state("cut", 12));
  ASSERT_EQ(train("fp32", {"--steps", "12", "--accum-freq", "2"}).status, 0);
  EXPECT_FALSE(weights("whole", 12) == weights("fp32", 12));
}

TEST_F(TrainApp, AutomaticPrecisionIsWhatTheProcessorIsFastIn) {
  const bool fast = cpu_backend().fast_dtype() == DType::kBF16;
  expect_contains(train("a", {"--steps", "0", "--precision", "auto"}).out,
                  fast ? "on cpu in bf16" : "on cpu in fp32");
  const AppResult wrong = train("b", {"--precision", "fp16"});
  EXPECT_EQ(wrong.status, 2);
  expect_contains(wrong.err, "--precision must be fp32, bf16 or auto, got 'fp16'");
}

TEST_F(TrainApp, TheSamePairsTrainTheSameFromEveryKindOfData) {
  const Strings same_order = {"--steps", "4", "--no-shuffle", "--augment", "none"};
  for (const std::string data : {"pairs.csv", "pairs.tsv", "pairs", "pairs.tar"}) {
    const Strings arguments = with(options({"--train-data", data, "--name", data}), same_order);
    const AppResult result = run_app("train", arguments, folder_);
    ASSERT_EQ(result.status, 0) << result.err;
    expect_contains(result.out, "24 samples");
    ASSERT_FALSE(weights(data, 4).empty());
    EXPECT_TRUE(weights(data, 4) == weights("pairs.csv", 4)) << data;
  }
}

TEST_F(TrainApp, WithoutShuffleAndAugmentTheSeedMakesNoBatch) {
  ASSERT_EQ(train("start", {"--steps", "0"}).status, 0);
  const auto trained = [&](const std::string& name, const std::string& seed, const Strings& more) {
    const Strings own = with({"--pretrained", "runs/start", "--steps", "3", "--seed", seed}, more);
    EXPECT_EQ(train(name, own).status, 0);
    return weights(name, 3);
  };
  const Strings plain = {"--no-shuffle", "--augment", "none"};
  EXPECT_TRUE(trained("a", "1", plain) == trained("b", "2", plain));
  EXPECT_FALSE(trained("c", "1", {"--no-shuffle"}) == trained("d", "2", {"--no-shuffle"}));
  EXPECT_FALSE(trained("e", "1", {"--augment", "none"}) ==
               trained("f", "2", {"--augment", "none"}));
}

TEST_F(TrainApp, StartsFromPretrainedWeightsAndTheirWords) {
  ASSERT_EQ(train("a", {"--steps", "3"}).status, 0);
  folder_.write("other.csv", "filepath,title\npairs/00.png,quite other words\n");
  const AppResult result = run_app("train",
                                   options({"--pretrained", "runs/a", "--train-data", "other.csv",
                                            "--steps", "0", "--seed", "7", "--name", "b"}),
                                   folder_);
  ASSERT_EQ(result.status, 0) << result.err;
  ASSERT_FALSE(weights("a", 3).empty());
  EXPECT_TRUE(weights("b", 0) == weights("a", 3));
  EXPECT_EQ(file_bytes(checkpoint("b", 0) + "/tokenizer.json"),
            file_bytes(checkpoint("a", 3) + "/tokenizer.json"));
}

TEST_F(TrainApp, ARunsConfigRepeatsItAndTheCommandLineComesFirst) {
  ASSERT_EQ(train("a", {"--steps", "4", "--lr", "0.003", "--no-shuffle"}).status, 0);
  ASSERT_EQ(run_app("train", {"--config", "runs/a/config.json", "--name", "b"}, folder_).status, 0);
  expect_equal_runs("a", "b", 4);
  ASSERT_EQ(
      run_app("train", {"--config", "runs/a/config.json", "--name", "c", "--steps", "2"}, folder_)
          .status,
      0);
  EXPECT_EQ(checkpoints("c"), Names{"step_2"});
}

TEST_F(TrainApp, RefusesTheNameOfAnExistingRun) {
  ASSERT_EQ(train("a", {"--steps", "2"}).status, 0);
  const std::string log_before = file_bytes(run_path("a") + "/log.jsonl");
  expect_refused(train("a", {"--steps", "3"}), "train", 1, {"runs/a exists", "--name", "--resume"});
  EXPECT_EQ(file_bytes(run_path("a") + "/log.jsonl"), log_before);
  EXPECT_EQ(checkpoints("a"), Names{"step_2"});
  EXPECT_EQ(names_in(folder_.path() + "/runs"), Names{"a"});
}

TEST_F(TrainApp, WithoutANameTakesTheModelsAndANumber) {
  const Strings arguments = options({"--train-data", "pairs.csv", "--steps", "1"});
  ASSERT_EQ(run_app("train", arguments, folder_).status, 0);
  ASSERT_EQ(run_app("train", arguments, folder_).status, 0);
  EXPECT_EQ(names_in(folder_.path() + "/runs"), (Names{"m-1", "m-2"}));
}

TEST_F(TrainApp, KeepsTheNewestCheckpointAloneIfAsked) {
  ASSERT_EQ(
      train("a", {"--steps", "3", "--save-steps", "1", "--delete-previous-checkpoint"}).status, 0);
  EXPECT_EQ(checkpoints("a"), Names{"step_3"});
  ASSERT_EQ(resume({"runs/a", "--steps", "5"}).status, 0);
  EXPECT_EQ(checkpoints("a"), Names{"step_5"});
}

TEST_F(TrainApp, SavesAfterEveryEpochIfAsked) {
  // 24 pairs in batches of 8
  const AppResult result =
      run_app("train",
              {"--model", "m.json", "--train-data", "pairs.csv", "--batch-size", "8", "--epochs",
               "3", "--save-frequency", "2", "--name", "a"},
              folder_);
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(checkpoints("a"), (Names{"step_6", "step_9"}));
}

TEST_F(TrainApp, MeasuresEmojiScenesAndTheCommandItNamesWorks) {
  const AppResult result = run_app("train", options({"--steps", "2", "--name", "a"}), folder_);
  ASSERT_EQ(result.status, 0) << result.err;
  for (const char* part :
       {"seen cells", "unseen cells", "unseen objects", "chance", "of 1000, 95 %", "colour",
        "object", "size", "count", "caption of a picture"})
    expect_contains(result.out, part);
  const json eval = log("a").back()["eval"];
  for (const char* key : {"seen", "unseen_cells", "unseen_objects"}) {
    EXPECT_EQ(eval[key]["tried"], 1000) << key;
    const double value = eval[key]["value"], rounding = 1e-12;
    EXPECT_LE(eval[key]["low"].get<double>(), value + rounding);
    EXPECT_GE(eval[key]["high"].get<double>(), value - rounding);
  }
  const std::string report = file_bytes(run_path("a") + "/report.html");
  for (const char* part : {"unseen cells", "Pictures after step 2", "src=\"data:image/png;base64,"})
    expect_contains(report, part);
  const std::string start = "./apps/zero_shot ";
  const size_t begin = result.out.find(start);
  ASSERT_NE(begin, std::string::npos) << result.out;
  const std::string command =
      result.out.substr(begin + start.size(), result.out.find('\n', begin) - begin - start.size());
  const CommandResult shown =
      run_command("cd '" + folder_.path() + "' && " + app_path("zero_shot") + " " + command);
  EXPECT_EQ(shown.status, 0) << shown.output;
  expect_contains(shown.output, "runs/a/samples/4.png");
}

TEST_F(TrainApp, AResNetLearnsScenesAndGoesOnBitForBit) {
  folder_.write("resnet.json", kSmallResNet);
  const auto run = [&](const std::string& name, const Strings& own) {
    const Strings all = with({"--model", "resnet.json", "--batch-size", "16", "--device", "cpu",
                              "--name", name, "--lr", "2e-3", "--log-every-n-steps", "1"},
                             own);
    return run_app("train", all, folder_);
  };
  const Strings sixty = {"--steps", "60", "--save-steps", "30"};
  const AppResult whole = run("whole", sixty);
  ASSERT_EQ(whole.status, 0) << whole.err;
  const auto entries = log("whole");
  const auto mean_loss = [&](size_t first) {
    double sum = 0;
    for (size_t i = first; i < first + 10; ++i) sum += entries[i]["loss"].get<double>() / 10;
    return sum;
  };
  EXPECT_LT(mean_loss(50), mean_loss(0) - 0.3);  // chance is ln 16 = 2.77, and single losses vary
  fs::remove_all(run_path("whole") + "/checkpoints/step_60");
  const std::string expected = weights("whole", 30);
  const AppResult resumed = resume({"runs/whole"});
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  ASSERT_EQ(run("again", sixty).status, 0);
  EXPECT_TRUE(weights("whole", 60) == weights("again", 60));
  EXPECT_FALSE(expected == weights("again", 60));

  const AppResult micro = run("micro", {"--steps", "1", "--accum-freq", "2"});
  ASSERT_EQ(micro.status, 0) << micro.err;
  expect_contains(micro.out, "each micro-batch of 16 pairs is normalised by itself");
}

}  // namespace
}  // namespace clip
