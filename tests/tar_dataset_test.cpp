#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>

#include "models/atomic_file.h"
#include "models/dataset.h"
#include "models/shard_pattern.h"
#include "tests/dataset_samples.h"
#include "tests/error_message.h"
#include "tests/scratch_folder.h"

namespace clip {
namespace {

std::string tar_error(const std::string& pattern) {
  return error_message([&] { open_tar_dataset(pattern); });
}

TEST(TarDataset, ReadsSamplesOfSeveralShardsInOrder) {
  const ScratchFolder folder;
  write_tar(folder, "s-000.tar",
            {{"0.jpg", picture(0)},
             {"0.txt", "zero\n"},
             {"0.json", "{}"},
             {"1.txt", "one"},
             {"1.png", picture(1)}});
  write_tar(folder, "s-001.tar", {{"./x/2.jpeg", picture(2)}, {"./x/2.txt", "two"}});
  const auto data = open_tar_dataset(folder.path("s-{000..001}.tar"));
  ASSERT_EQ(data->size(), 3);
  EXPECT_EQ(data->captions(), (Strings{"zero", "one", "two"}));
  for (int i = 2; i >= 0; --i) {
    const Sample sample = data->get(i, 0);
    EXPECT_EQ(red_of(sample), i);
    EXPECT_EQ(sample.caption, data->captions()[static_cast<size_t>(i)]);
  }
  expect_contains(data->describe(), "3 samples in 2 shards");
}

TEST(TarDataset, FindsMembersBehindLongNamesAndBigMembers) {
  const ScratchFolder folder;
  const std::string name = std::string(150, 'd') + "/" + std::string(200, 'n') + "\xC3\xA9";
  const std::string path = write_tar(folder, "s.tar",
                                     {{"big.bin", std::string(300'000, 'b')},
                                      {name + ".png", picture(5)},
                                      {name + ".txt", "five"}});
  const auto data = open_tar_dataset(path);
  ASSERT_EQ(data->size(), 1);
  EXPECT_EQ(red_of(data->get(0, 0)), 5);
  EXPECT_EQ(data->get(0, 0).caption, "five");
}

TEST(TarDataset, PairsMembersThatAreNotNeighbours) {
  const ScratchFolder folder;
  const std::string path =
      write_tar(folder, "s.tar",
                {{"a.png", picture(1)}, {"b.png", picture(2)}, {"b.txt", "two"}, {"a.txt", "one"}});
  const auto data = open_tar_dataset(path);
  EXPECT_EQ(data->captions(), (Strings{"one", "two"}));
  EXPECT_EQ(red_of(data->get(0, 0)), 1);
}

TEST(TarDataset, TakesANameThatComesAgainForAnotherSample) {
  const ScratchFolder folder;
  const std::string path =
      write_tar(folder, "s.tar",
                {{"a.png", picture(1)}, {"a.txt", "one"}, {"a.png", picture(2)}, {"a.txt", "two"}});
  const auto data = open_tar_dataset(path);
  EXPECT_EQ(data->captions(), (Strings{"one", "two"}));
  EXPECT_EQ(red_of(data->get(1, 0)), 2);
}

TEST(TarDataset, TakesTheFirstOfTwoFormatsOfOnePicture) {
  const ScratchFolder folder;
  const auto data = open_tar_dataset(
      write_tar(folder, "s.tar", {{"a.png", picture(1)}, {"a.jpg", picture(2)}, {"a.txt", "one"}}));
  ASSERT_EQ(data->size(), 1);
  EXPECT_EQ(red_of(data->get(0, 0)), 1);
}

TEST(TarDataset, CallsAMissingCaptionOrAnUndecodablePictureABrokenSample) {
  const ScratchFolder folder;
  const std::string path =
      write_tar(folder, "s.tar",
                {{"a.png", picture(1)}, {"b.png", "nothing"}, {"b.txt", "x"}, {"c.txt", "alone"}});
  const auto data = open_tar_dataset(path);
  ASSERT_EQ(data->size(), 2);
  expect_contains(error_message<BrokenSample>([&] { data->get(0, 0); }),
                  path + ": a.png has no .txt of the same base name");
  expect_contains(error_message<BrokenSample>([&] { data->get(1, 0); }), path + ": b.png");
  EXPECT_EQ(data->captions(), (Strings{"x"}));
  expect_contains(data->describe(), "captions left out for want of a picture: 1");
}

TEST(TarDataset, OpensAShardOnceForASample) {
  const ScratchFolder folder;
  const std::string shard = write_tar(folder, "a.tar", {{"0.ppm", picture(7)}, {"0.txt", "seven"}});
  const auto data = open_tar_dataset(shard);
  const FileDescriptor watch(inotify_init1(IN_NONBLOCK));
  ASSERT_GE(inotify_add_watch(watch.number(), shard.c_str(), IN_OPEN | IN_CLOSE), 0);
  EXPECT_EQ(red_of(data->get(0, 0)), 7);
  std::array<inotify_event, 16> events;
  const ssize_t opened_and_closed = 2 * static_cast<ssize_t>(sizeof(inotify_event));
  EXPECT_EQ(::read(watch.number(), events.data(), sizeof events), opened_and_closed);
}

TEST(TarDataset, ReadsAPictureWithoutItsCaption) {
  const ScratchFolder folder;
  const auto data = open_tar_dataset(write_tar(folder, "a.tar", {{"0.ppm", picture(7)}}));
  EXPECT_EQ(data->picture(0).pixels[0], 7);
}

TEST(TarDataset, AcceptsAnEmptyCaption) {
  const ScratchFolder folder;
  const auto data =
      open_tar_dataset(write_tar(folder, "s.tar", {{"a.png", picture(1)}, {"a.txt", ""}}));
  EXPECT_EQ(data->get(0, 0).caption, "");
}

TEST(TarDataset, SaysThatACompressedShardIsCompressed) {
  const ScratchFolder folder;
  const std::string path =
      write_tar(folder, "s.tar", {{"a.png", picture(1)}, {"a.txt", "x"}}, ARCHIVE_FILTER_GZIP);
  expect_contains(tar_error(path), path + " is compressed (gzip)");
}

TEST(TarDataset, NamesAShardThatIsMissing) {
  const ScratchFolder folder;
  write_tar(folder, "s0.tar", {{"a.png", picture(1)}, {"a.txt", "x"}});
  expect_contains(tar_error(folder.path("s{0..1}.tar")), "cannot open " + folder.path("s1.tar"));
}

TEST(TarDataset, NamesAShardThatIsNoTar) {
  const ScratchFolder folder;
  const std::string path = folder.write("s.tar", std::string(4096, 'x'));
  expect_contains(tar_error(path), path + " is no tar archive");
}

TEST(TarDataset, NamesAShardWithoutSamples) {
  const ScratchFolder folder;
  expect_contains(tar_error(write_tar(folder, "s.tar", {{"a.txt", "x"}})), "holds no sample");
  expect_contains(tar_error(folder.write("t.tar", std::string(1024, '\0'))), "holds no sample");
}

TEST(TarDataset, NamesAShardThatIsEmptyOrAFolder) {
  const ScratchFolder folder;
  const std::string empty = folder.write("s.tar", "");
  expect_contains(tar_error(empty), empty);
  folder.write("t.tar/x", "");
  expect_contains(tar_error(folder.path("t.tar")), folder.path("t.tar"));
}

TEST(TarDataset, NoticesAShardCutShortAtAnyPlace) {
  const ScratchFolder folder;
  const std::string path =
      write_tar(folder, "s.tar", {{"a.txt", "x"}, {"a.png", std::string(20'000, 'p')}});
  // Inside the picture's bytes, at their begin, and inside the picture's header.
  for (const uintmax_t size : {12'000u, 1'600u, 1'300u}) {
    std::filesystem::resize_file(path, size);
    expect_contains(tar_error(path), path);
  }
}

TEST(TarDataset, CallsASampleOfAShardThatShrankBroken) {
  const ScratchFolder folder;
  const std::string path = write_tar(folder, "s.tar", {{"a.png", picture(1)}, {"a.txt", "x"}});
  const auto data = open_tar_dataset(path);
  std::filesystem::resize_file(path, 512);
  expect_contains(error_message<BrokenSample>([&] { data->get(0, 0); }), "become shorter");
}

TEST(ShardPattern, ExpandsRangesWithTheirLeadingZeros) {
  EXPECT_EQ(expand_shard_pattern("a-{08..11}.tar"),
            (Strings{"a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"}));
  EXPECT_EQ(expand_shard_pattern("{9..10}"), (Strings{"9", "10"}));
  EXPECT_EQ(expand_shard_pattern("{2..0}"), (Strings{"2", "1", "0"}));
}

TEST(ShardPattern, ExpandsListsNestedAndMultiplied) {
  EXPECT_EQ(expand_shard_pattern("{a,b}{0..1}"), (Strings{"a0", "a1", "b0", "b1"}));
  EXPECT_EQ(expand_shard_pattern("x{a,b{1..2},}.tar"),
            (Strings{"xa.tar", "xb1.tar", "xb2.tar", "x.tar"}));
}

TEST(ShardPattern, JoinsPartsInTheirOrder) {
  EXPECT_EQ(expand_shard_pattern("b.tar::a{0..1}.tar"), (Strings{"b.tar", "a0.tar", "a1.tar"}));
}

TEST(ShardPattern, RefusesPatternsThatMakeNoSense) {
  for (const char* pattern :
       {"", "a::", "::a", "a{0..1", "a}b", "{x}", "{0..}", "{0..9999999}", "{0..1999}{0..1999}"}) {
    EXPECT_THROW(expand_shard_pattern(pattern), Error) << pattern;
  }
}

}  // namespace
}  // namespace clip
