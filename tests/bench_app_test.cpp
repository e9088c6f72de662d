// apps/bench from outside: what it says adds up, and what it refuses.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "models/flop.h"
#include "tests/app_process.h"
#include "tests/app_samples.h"

namespace clip {
namespace {

using nlohmann::json;

class BenchApp : public testing::Test {
 protected:
  BenchApp() { folder_.write("m.json", kSmallModel); }

  AppResult bench(const Strings& own) const {
    const Strings all = with({"--device", "cpu", "--batch-size", "4", "--text-length", "5",
                              "--steps", "3", "--warmup", "1", "--json"},
                             own);
    return run_app("bench", all, folder_);
  }
  json last_line(const Strings& own) const {
    const AppResult result = bench(own);
    EXPECT_EQ(result.status, 0) << result.err;
    EXPECT_EQ(result.err, "");
    return json::parse(lines_of(result.out).back());
  }
  void refuses(const Strings& own, int status, const Strings& parts) const {
    expect_refused(bench(own), "bench", status, parts);
  }

  ScratchFolder folder_;
};

TEST_F(BenchApp, TellsOfAStepWhatAddsUp) {
  const json result = last_line({"--step", "m.json", "--peak-tflops", "0.5"});
  const double step = result["step_s"], flop_per_s = 1e12 * result["tflop_per_s"].get<double>();
  EXPECT_GT(step, 0);
  EXPECT_LE(result["step_s_spread"][0], step);
  EXPECT_GE(result["step_s_spread"][1], step);
  // Decimal figures of the same numbers.
  EXPECT_NEAR(result["pairs_per_s"].get<double>() * step, 4, 1e-9);
  const double needed = needed_flop(config_from_json(kSmallModel, "test"), 5);
  EXPECT_NEAR(flop_per_s * step / (4 * needed), 1, 1e-9);
  EXPECT_NEAR(result["mfu"].get<double>() * 0.5e12 / flop_per_s, 1, 1e-9);
  EXPECT_EQ(result["device"], "cpu");
  EXPECT_EQ(result["precision"], "fp32");
}

TEST_F(BenchApp, MeasuresThePeakOfAProcessor) {
  const json result = last_line({"--step", "m.json"});
  EXPECT_GT(result["peak_tflop_per_s"], 0.001);
  EXPECT_GT(result["mfu"], 0);
  EXPECT_LT(result["mfu"], 1);  // a tiny model is nowhere near
}

TEST_F(BenchApp, TimesTheOpsWhoseNamesBeginAsAsked) {
  const json result = last_line({"--ops=l2_norm"});
  ASSERT_EQ(result["ops"].size(), 1u);
  const json& op = result["ops"][0];
  EXPECT_EQ(op["op"], "l2_normalize");
  EXPECT_GT(op["seconds"], 0);
  EXPECT_NEAR(op["bytes_per_s"].get<double>() / result["peak_bytes_per_s"].get<double>(),
              op["share_of_peak"].get<double>(), 1e-9);
  refuses({"--ops=nothing"}, 2, {"--ops", "'nothing'"});
  refuses({"--ops", "--step", "m.json"}, 2, {"only one of"});
}

TEST_F(BenchApp, SplitsAStepByKind) {
  const json result = last_line({"--step", "m.json", "--profile"}), split = result["split_s"];
  for (const char* kind : {"attention", "copy", "elementwise", "gemm", "loss", "optimizer"})
    EXPECT_GT(split.value(kind, 0.0), 0) << kind << " of " << split;
  double forward = 0, backward = 0;
  for (const json& row : result["profile_rows"]) {
    if (row["name"] == "linear") forward = row["flop"];
    if (row["name"] == "linear backward") backward = row["flop"];
  }
  EXPECT_GT(forward, 0);
  EXPECT_EQ(backward, 2 * forward);
}

TEST_F(BenchApp, CountsTheSigmoidLossAsLoss) {
  folder_.write("siglip.json", R"({"init_logit_bias": -10,)" + std::string(kSmallModel).substr(1));
  const json split = last_line({"--step", "siglip.json", "--profile"})["split_s"];
  EXPECT_GT(split.value("loss", 0.0), 0) << split;
}

TEST_F(BenchApp, TimesTheTowers) {
  const json result = last_line({"--infer", "m.json"});
  for (const char* what : {"images_per_s", "texts_per_s", "image_latency_s"})
    EXPECT_GT(result.value(what, 0.0), 0) << what;
}

TEST_F(BenchApp, TellsOfManyRanksWhatAddsUp) {
  const json result = last_line({"--scale", "m.json", "--tflops", "0.001", "--ranks", "1,16",
                                 "--accum-freq", "3", "--memory-gib", "0.5"});
  ASSERT_EQ(result["scale"].size(), 2);
  EXPECT_EQ(result["scale"][0]["efficiency"], 1.0);
  const json& many = result["scale"][1];
  EXPECT_EQ(many["global_pairs"], 16 * 3 * 4);
  const auto seconds = [&](const char* name) { return many[name].get<double>(); };
  EXPECT_NEAR(
      seconds("compute_s") + seconds("gather_s") + seconds("loss_s") + seconds("reduce_exposed_s"),
      seconds("step_s"), 1e-12);
  EXPECT_NEAR(seconds("pairs_per_s") * seconds("step_s"), 192, 1e-9);
  EXPECT_GT(many["largest_batch"], 4);
}

TEST_F(BenchApp, OpensNoDeviceForWhatItComputesOnPaper) {
  const auto scale = [&](const Strings& own) {
    const Strings all =
        with({"--scale", "m.json", "--text-length", "5", "--device", "cuda:99"}, own);
    return run_app("bench", all, folder_);
  };
  const AppResult result = scale({"--tflops", "0.001", "--precision", "bf16"});
  EXPECT_EQ(result.status, 0) << result.err;
  expect_contains(result.out, "model       m.json, bf16");
  expect_refused(scale({}), "bench", 1, {"cuda:99"});
  expect_refused(scale({"--tflops", "0.001", "--precision", "auto"}), "bench", 1, {"cuda:99"});
}

TEST_F(BenchApp, MeasuresTheSpeedOfARankThatIsNotGiven) {
  const json result = last_line({"--scale", "m.json", "--ranks", "1"});
  // One rank's towers take what the step took here; 4 pairs of loss come on top of it.
  EXPECT_NEAR(result["scale"][0]["compute_s"].get<double>() / result["step_s"].get<double>(), 1,
              1e-9);
}

TEST_F(BenchApp, RefusesWhatItCannotTime) {
  refuses({}, 2, {"--step", "--infer", "--scale"});
  refuses({"--scale", "m.json", "--step", "m.json"}, 2, {"--step", "--scale"});
  refuses({"--scale", "m.json", "--ranks", "8,x"}, 2, {"--ranks", "'8,x'"});
  refuses({"--scale", "m.json", "--tflops", "nan"}, 2, {"--tflops"});
  refuses({"--scale", "RN50"}, 1, {"ResNet"});  // before anything is measured
  refuses({"--scale", "m.json", "--memory-gib", "0"}, 2, {"--memory-gib"});
  refuses({"--scale", "m.json", "--memory-gib", "inf"}, 2, {"--memory-gib"});
  refuses({"--step", "m.json", "--accum-freq", "2"}, 2, {"--accum-freq", "--scale"});
  refuses({"--step", "m.json", "--infer", "m.json"}, 2, {"--step", "--infer"});
  refuses({"--step", "ViT-X"}, 2, {"ViT-X"});
  refuses({"--step", "none.json"}, 1, {"none.json"});
  refuses({"--infer", "m.json", "--profile"}, 2, {"--profile"});
  refuses({"--step", "m.json", "--precision", "fp8"}, 2, {"--precision", "'fp8'"});
  refuses({"--step", "m.json", "--peak-tflops", "nan"}, 2, {"--peak-tflops"});
}

TEST_F(BenchApp, RefusesCaptionsLongerThanTheModelReads) {
  expect_refused(run_app("bench", {"--step", "m.json", "--text-length", "17"}, folder_), "bench", 2,
                 {"--text-length", "16", "17"});
  expect_refused(run_app("bench", {"--step", "m.json", "--text-length", "1"}, folder_), "bench", 2,
                 {"--text-length", "1"});
}

}  // namespace
}  // namespace clip
