// apps/bench started by mpirun.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/app_process.h"
#include "tests/app_samples.h"
#include "tests/run_command.h"

namespace clip {
namespace {

class MpiBenchApp : public testing::Test {
 protected:
  void SetUp() override {
    if (mpirun(1).empty()) GTEST_SKIP() << "no mpirun";
    folder_.write("m.json", kSmallModel);
  }
  AppResult bench(const std::string& what) const {
    const Strings all = {"--device",      "cpu", what,      "m.json", "--batch-size", "4",
                         "--text-length", "5",   "--steps", "3",      "--warmup",     "1",
                         "--json"};
    return AppProcess("bench", all, folder_, ".stdout", mpirun(2)).wait();
  }

  ScratchFolder folder_;
};

TEST_F(MpiBenchApp, TellsOnceOfThePairsOfAllRanks) {
  const AppResult result = bench("--step");
  ASSERT_EQ(result.status, 0) << result.err;
  const Strings lines = lines_of(result.out);
  EXPECT_EQ(std::count_if(lines.begin(), lines.end(),
                          [](const std::string& line) { return line.starts_with("speed "); }),
            1)
      << result.out;
  const auto json = nlohmann::json::parse(lines.back());
  EXPECT_EQ(json["ranks"], 2);
  // Decimal figures of the same numbers.
  EXPECT_NEAR(json["pairs_per_s"].get<double>() * json["step_s"].get<double>(), 8, 1e-9);
}

TEST_F(MpiBenchApp, TimesTowersInOneProcessOnly) {
  const AppResult result = bench("--infer");
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(
      result.err.find("bench: rank 0: --infer, --ops and --scale are for one process, got 2 ranks"),
      std::string::npos)
      << result.err;
}

}  // namespace
}  // namespace clip
