// Writing where it cannot succeed; the writer of safetensors files stands for all.
#include "models/atomic_file.h"

#include <gtest/gtest.h>

#include "models/safetensors.h"
#include "tests/child_process.h"
#include "tests/error_message.h"
#include "tests/scratch_folder.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kWholeFile = 1 << 30;

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  return names;
}

TEST(AtomicFile, TellsOfAPlaceThatCannotBeWrittenTo) {
  const ScratchFolder folder;
  const float value = 1;
  const auto written = [&](const std::string& path) {
    return error_message([&] { write_safetensors(path, {{"x", DType::kF32, {1}, &value}}, {}); });
  };
  folder.write("file", "x");
  EXPECT_TRUE(says(written(folder.path() + "/file/a"), "/file/a", "Not a directory"));
  EXPECT_TRUE(says(written(folder.path() + "/none/a"), "/none/a", "No such file"));
  EXPECT_TRUE(says(written(folder.path()), folder.path(), "Is a directory"));
  EXPECT_TRUE(says(written("/proc/a.safetensors"), "/proc/a.safetensors"));
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"file"});
}

TEST(AtomicFile, TellsOfAFullDevice) {
  const std::vector<float> values(100'000, 1.f);
  const std::string message = error_message([&] {
    write_safetensors("/dev/full", {{"x", DType::kF32, {100'000}, values.data()}}, {});
  });
  EXPECT_TRUE(says(message, "/dev/full", "No space left")) << message;
  EXPECT_TRUE(fs::is_character_file("/dev/full"));
}

TEST(AtomicFile, AFullDiskLeavesTheOldFileAndNothingElse) {
  const ScratchFolder folder;
  const int status = in_child([&] {
    if (!mount_small_disk(folder.path(), 1 << 20)) return kCannotTest;
    const std::string path = folder.path("a.safetensors");
    const std::vector<float> values(1'000'000, 1.f);
    write_safetensors(path, {{"x", DType::kF32, {10}, values.data()}}, {});
    const std::string before = read_file(path, kWholeFile);
    const std::string message = error_message([&] {
      write_safetensors(path, {{"x", DType::kF32, {1'000'000}, values.data()}}, {});
    });
    std::printf("%s\n", message.c_str());
    return says(message, path, "No space left") && read_file(path, kWholeFile) == before &&
                   names_in(folder.path()).size() == 1
               ? 0
               : 1;
  });
  if (status == kCannotTest) GTEST_SKIP() << "a tmpfs cannot be mounted here: full disk not tested";
  EXPECT_EQ(status, 0);
}

TEST(AtomicFile, AFailedWriteLeavesTheOldFileAndNothingElse) {
  const ScratchFolder folder;
  const std::string path = folder.path("a.safetensors");
  const std::vector<float> values(100'000, 1.f);
  write_safetensors(path, {{"x", DType::kF32, {10}, values.data()}}, {});
  const std::string before = read_file(path, kWholeFile);
  const int status = in_child([&] {
    limit_file_size(100'000);
    const std::string message = error_message([&] {
      write_safetensors(path, {{"x", DType::kF32, {100'000}, values.data()}}, {});
    });
    return says(message, path, "File too large") ? 0 : 1;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(read_file(path, kWholeFile), before);
  EXPECT_EQ(names_in(folder.path()).size(), 1u);
}

TEST(AtomicFile, ALinkStaysAndWhatItPointsToIsReplaced) {
  const ScratchFolder folder;
  const float value = 1;
  folder.write("far/file", "old");
  fs::create_symlink("far/file", folder.path("link"));
  write_safetensors(folder.path("link"), {{"x", DType::kF32, {1}, &value}}, {});
  EXPECT_TRUE(fs::is_symlink(folder.path("link")));
  EXPECT_EQ(SafetensorsFile(folder.path("far/file")).entries().size(), 1u);
}

TEST(AtomicFile, WithoutCommitNothingRemains) {
  const ScratchFolder folder;
  folder.write("a", "old");
  {
    AtomicFile file(folder.path("a"));
    file.write("new", 3);
    EXPECT_EQ(names_in(folder.path()).size(), 2u);
  }
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"a"});
  EXPECT_EQ(read_file(folder.path("a"), kWholeFile), "old");
}

TEST(AtomicFile, ReadsNoFileThatIsLongerThanAllowed) {
  const ScratchFolder folder;
  const std::string path = folder.write("a", "12345");
  EXPECT_EQ(read_file(path, 5), "12345");
  const std::string message = error_message([&] { read_file(path, 4); });
  EXPECT_TRUE(says(message, path, "5 bytes")) << message;
}

}  // namespace
}  // namespace clip
