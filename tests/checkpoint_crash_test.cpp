// Saving that fails or is killed midway.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/child_process.h"
#include "tests/error_message.h"
#include "tests/small_checkpoint.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

TEST(CheckpointCrash, IsReplacedEvenWhereFoldersCannotBeExchanged) {
  const ScratchFolder folder;
  const std::string path = folder.path("step_1");
  SmallModel model;
  save(path, model);
  const int status = in_child([&] {
    if (!forbid_exchange()) return kCannotTest;
    save(path, model, nullptr);
    return 0;
  });
  if (status == kCannotTest) GTEST_SKIP() << "no system call filter can be set here";
  EXPECT_EQ(status, 0);
  EXPECT_EQ(names_in(folder.path()), Names{"step_1"});
  EXPECT_EQ(names_in(path), Names(kFiles.begin(), kFiles.end() - 1));
}

TEST(CheckpointCrash, TellsOfAPlaceThatCannotBeWrittenTo) {
  const ScratchFolder folder;
  SmallModel model;
  folder.write("file", "x");
  const std::string below = folder.path() + "/file/checkpoints/step_1";
  EXPECT_TRUE(says(error_message([&] { save(below, model); }), folder.path() + "/file/checkpoints",
                   "Not a directory"));
  EXPECT_TRUE(says(error_message([&] { save("/proc/step_1", model); }), "/proc/step_1"));
  EXPECT_EQ(names_in(folder.path()), Names{"file"});
}

// What happens when writing fails within `child`: the old checkpoint stays, no temporary is left.
template <class Limit>
int status_of_failed_save(const std::string& run, const std::string& reason, const Limit& limit) {
  const std::string path = run + "/checkpoints/step_1";
  SmallModel small, loaded, large(DType::kF32, 10'000);  // before the fork: filling is parallel
  return in_child([&] {
    if (!limit()) return kCannotTest;
    save(path, small);
    for (const std::string& name : {path, run + "/checkpoints/step_2"}) {
      const std::string message = error_message([&] { save(name, large); });
      if (!says(message, name + "/open_clip_model.safetensors", reason)) {
        std::fprintf(stderr, "%s\n", message.c_str());
        return 1;
      }
    }
    load_parameters(path, loaded.list);
    return names_in(run + "/checkpoints") == Names{"step_1"} && names_in(path) == kFiles ? 0 : 2;
  });
}

TEST(CheckpointCrash, AFullDiskLeavesTheOldOneAndNothingElse) {
  const ScratchFolder folder;
  const int status = status_of_failed_save(
      folder.path(), "No space left", [&] { return mount_small_disk(folder.path(), 1 << 20); });
  if (status == kCannotTest) GTEST_SKIP() << "a tmpfs cannot be mounted here: full disk not tested";
  EXPECT_EQ(status, 0);
}

TEST(CheckpointCrash, AFailedWriteLeavesTheOldOneAndNothingElse) {
  const ScratchFolder folder;
  const int status = status_of_failed_save(folder.path(), "File too large", [] {
    limit_file_size(1 << 19);
    return true;
  });
  EXPECT_EQ(status, 0);
}

TEST(CheckpointCrash, TemporariesOfDeadProcessesGoAndThoseOfLivingOnesStay) {
  const ScratchFolder folder;
  SmallModel model;
  const AtomicFolder living(folder.path("step_5"));
  folder.write(".step_4.tmp-999999-0/open_clip_config.json", "{}");
  folder.write(".notes.tmp-old/file", "a name of somebody else's");
  save(folder.path("step_6"), model);
  const std::string living_name = fs::path(living.temporary()).filename().string();
  EXPECT_EQ(names_in(folder.path()), (Names{".notes.tmp-old", living_name, "step_6"}));
}

// Saves states 1, 2, 3, ... under three names in turn until it is killed. State k has k everywhere.
[[noreturn]] void save_until_killed(const std::string& run, SmallModel& model) {
  for (int64_t k = 1;; ++k) {
    model.fill<float>([k](int, const Parameter&, int64_t) { return static_cast<float>(k); });
    const TrainingState training = {k, k, 0, ""};
    save(run + "/checkpoints/step_" + std::to_string(k % 3 + 1), model, &training);
  }
}

// True if the checkpoint holds one state and not parts of two.
void expect_one_state(const std::string& path) {
  SmallModel loaded;
  load_parameters(path, loaded.list);
  const float k = static_cast<float>(load_training_state(path, loaded.list).step);
  load_tokenizer(path);
  for (Tensor* buffer :
       {&loaded.list.values(), &loaded.list.first_moments(), &loaded.list.second_moments()})
    for (const Parameter& parameter : loaded.list.parameters())
      for (float value : ParameterList::view(*buffer, parameter).to_vector<float>())
        ASSERT_EQ(value, k) << path;
}

TEST(CheckpointCrash, AKillWhileSavingLeavesOnlyWholeOnes) {
  const ScratchFolder folder;
  const std::string run = folder.path("run");
  SmallModel model;
  model.fill<float>([](int, const Parameter&, int64_t) { return 0.f; });
  const TrainingState start = {0, 0, 0, ""};
  const auto before = std::chrono::steady_clock::now();
  save(run + "/checkpoints/step_0", model, &start);
  const auto one_save = std::chrono::steady_clock::now() - before;
  Random random(1, random_stream("kill"));
  int interrupted = 0;
  for (int i = 0; i < 20; ++i) {
    const pid_t child = ::fork();
    if (child == 0) save_until_killed(run, model);
    std::this_thread::sleep_for(one_save * random.uniform(0.1, 6.0));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
    const auto newest = newest_checkpoint(run);
    ASSERT_TRUE(newest.has_value());
    for (const std::string& name : names_in(run + "/checkpoints")) {
      if (name.starts_with(".")) {
        ++interrupted;
      } else {
        expect_one_state(run + "/checkpoints/" + name);
      }
    }
  }
  EXPECT_GT(interrupted, 5) << "the kills came between the saves: nothing was tested";
  save(run + "/checkpoints/step_0", model, &start);
  for (const std::string& name : names_in(run + "/checkpoints"))
    EXPECT_TRUE(name.starts_with("step_")) << name;
}

}  // namespace
}  // namespace clip
