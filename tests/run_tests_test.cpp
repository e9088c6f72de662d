// tests/run_tests.sh on programs that pass, fail, crash, hang, or leave early. They are scripts
// that say what a GoogleTest program would.
#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "tests/run_command.h"
#include "tests/scratch_folder.h"

namespace clip {
namespace {

class RunTests : public testing::Test {
 protected:
  /// A program that runs `body`, where `report TESTS FAILURES SKIPPED` writes GoogleTest's report.
  std::string program(const std::string& name, const std::string& body) {
    const std::string file = folder_.write(name, std::string(R"(#!/bin/bash
for argument; do
  [[ $argument != --gtest_output=xml:* ]] || report_file=${argument#*xml:}
done
report() {
  {
    echo "<testsuites tests=\"$1\" failures=\"$2\" disabled=\"0\" errors=\"0\">"
    for (( i = 0; i < $1; ++i )); do
      result=completed
      (( i >= $3 )) || result=skipped
      echo "  <testcase name=\"T$i\" status=\"run\" result=\"$result\" />"
    done
  } >"$report_file"
}
)") + body + "\n");
    std::filesystem::permissions(file, std::filesystem::perms::owner_all);
    return " '" + file + "'";
  }

  static CommandResult run(const std::string& programs, const std::string& settings = "") {
    // The settings of the run that this test is part of are not for these programs.
    return run_command("env -u FILTER -u SKIP_SLOW -u TEST_TIMEOUT " + settings + " " +
                       script_path("run_tests.sh") + programs);
  }

  static std::string last_line(const CommandResult& result) {
    std::istringstream lines(result.output);
    std::string last;
    for (std::string line; std::getline(lines, line);) last = line;
    return last;
  }

  ScratchFolder folder_;
};

TEST_F(RunTests, SumsOverPrograms) {
  const CommandResult result =
      run(program("a_test", "report 3 0 0") + program("b_test", "report 4 0 0"));
  EXPECT_EQ(last_line(result), "7 passed, 0 failed");
  EXPECT_EQ(result.status, 0);
}

TEST_F(RunTests, ShowsWhatAFailingProgramPrints) {
  const CommandResult result =
      run(program("a_test", "echo expected 1, got 2; report 3 1 0; exit 1") +
          program("b_test", "echo quiet; report 1 0 0"));
  EXPECT_EQ(last_line(result), "3 passed, 1 failed");
  EXPECT_EQ(result.status, 1);
  EXPECT_NE(result.output.find("expected 1, got 2"), std::string::npos);
  EXPECT_EQ(result.output.find("quiet"), std::string::npos);
}

TEST_F(RunTests, CountsACrashAsAFailureBesideTheTestsThatPassedBefore) {
  const CommandResult result =
      run(program("a_test", "echo '[       OK ] A.Passes (0 ms)'; kill -SEGV $$"));
  EXPECT_EQ(last_line(result), "1 passed, 1 failed");
  EXPECT_EQ(result.status, 1);
}

TEST_F(RunTests, CountsAProgramThatIsStoppedAsAFailure) {
  const CommandResult result = run(program("a_test", "sleep 60"), "TEST_TIMEOUT=0.2");
  EXPECT_EQ(last_line(result), "0 passed, 1 failed");
  EXPECT_NE(result.output.find("stopped after 0.2 s"), std::string::npos);
  EXPECT_EQ(result.status, 1);
}

TEST_F(RunTests, CountsAnEarlyExitAsAFailure) {
  const CommandResult result = run(program("a_test", "exit 0"));
  EXPECT_EQ(last_line(result), "0 passed, 1 failed");
  EXPECT_EQ(result.status, 1);
}

TEST_F(RunTests, CountsAnErrorAfterTheLastTestAsAFailure) {
  const CommandResult result = run(program("a_test", "report 2 0 0; exit 23"));
  EXPECT_EQ(last_line(result), "2 passed, 1 failed");
  EXPECT_EQ(result.status, 1);
}

TEST_F(RunTests, DoesNotCountSkippedTestsAsPassed) {
  const CommandResult result = run(program("a_test", "report 3 0 2"));
  EXPECT_EQ(last_line(result), "1 passed, 0 failed");
  EXPECT_NE(result.output.find("2 skipped"), std::string::npos);
}

TEST_F(RunTests, CountsAProgramWithoutTestsAsAFailure) {
  const CommandResult result = run(program("a_test", "report 0 0 0"));
  EXPECT_EQ(last_line(result), "0 passed, 1 failed");
  EXPECT_EQ(result.status, 1);
}

TEST_F(RunTests, FailsWhenThereIsNothingToRun) { EXPECT_EQ(run("").status, 1); }

TEST_F(RunTests, GivesEachProgramAnEmptyTemporaryDirectory) {
  const std::string body =
      "[[ -z $(ls -A \"$TMPDIR\") ]] || exit 1; touch \"$TMPDIR/x\"; report 1 0 0";
  const CommandResult result = run(program("a_test", body) + program("b_test", body));
  EXPECT_EQ(last_line(result), "2 passed, 0 failed") << result.output;
}

}  // namespace
}  // namespace clip
