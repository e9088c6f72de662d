// Folders of classes, CIFAR and MNIST files, whole and damaged.
#include "models/labelled_pictures.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/dataset_samples.h"
#include "tests/error_message.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

/// Deflated by gzip, in whose header no time stands.
std::string gzip(const std::string& bytes) {
  std::vector<char> out(bytes.size() + 1024);
  size_t used = 0;
  const std::unique_ptr<archive, int (*)(archive*)> writer(archive_write_new(), archive_write_free);
  archive_write_set_format_raw(writer.get());
  archive_write_add_filter_gzip(writer.get());
  EXPECT_EQ(archive_write_open_memory(writer.get(), out.data(), out.size(), &used), ARCHIVE_OK);
  const std::unique_ptr<archive_entry, void (*)(archive_entry*)> entry(archive_entry_new(),
                                                                       archive_entry_free);
  archive_entry_set_filetype(entry.get(), AE_IFREG);
  EXPECT_EQ(archive_write_header(writer.get(), entry.get()), ARCHIVE_OK);
  EXPECT_EQ(archive_write_data(writer.get(), bytes.data(), bytes.size()), std::ssize(bytes));
  EXPECT_EQ(archive_write_close(writer.get()), ARCHIVE_OK);
  return {out.data(), used};
}

std::string idx(const std::vector<int>& sizes, const std::string& items) {
  std::string bytes = {0, 0, 8, static_cast<char>(sizes.size())};
  for (const int size : sizes)
    bytes += {0, 0, static_cast<char>(size / 256), static_cast<char>(size % 256)};
  return bytes + items;
}

class LabelledPicturesTest : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& bytes) const {
    folder_.write(name, bytes);
  }
  LabelledPictures open(Split split = Split::kTest) const {
    return open_labelled_pictures(folder_.path(), split);
  }
  std::string refusal(Split split = Split::kTest) const {
    return error_message([&] { open(split); });
  }

  /// A record of CIFAR: labels, then red, green and blue planes that differ in each pixel.
  static std::string cifar_record(const std::string& labels, int first) {
    std::string record = labels;
    for (int c = 0; c < 3; ++c)
      for (int i = 0; i < 1024; ++i) record += static_cast<char>(first + 70 * c + i % 51);
    return record;
  }
  void write_cifar10() const {
    write("batches.meta.txt",
          "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n");
    for (char i = 1; i <= 5; ++i)
      write(concat("data_batch_", int{i}, ".bin"),
            cifar_record({i}, i) + cifar_record({i}, 10 + i));
    write("test_batch.bin", cifar_record({9}, 0) + cifar_record({0}, 1));
  }
  /// Two pictures of 2 x 3 and their labels.
  void write_idx(const std::string& labels = {3, 1}) const {
    write("t10k-images-idx3-ubyte", idx({2, 2, 3}, "abcdefghijkl"));
    write("t10k-labels-idx1-ubyte", idx({static_cast<int>(labels.size())}, labels));
  }

  ScratchFolder folder_;
};

TEST_F(LabelledPicturesTest, CifarTenHasTheClassNamesOfItsFileAndPlanesOfColor) {
  write_cifar10();
  const LabelledPictures pictures = open();
  EXPECT_EQ(pictures.size(), 2);
  EXPECT_EQ(pictures.labels, (std::vector<int64_t>{9, 0}));
  EXPECT_EQ(pictures.classes.size(), 10);
  EXPECT_EQ(pictures.classes[9], "truck");
  const Image image = pictures.picture(1);
  EXPECT_EQ(image.width, 32);
  EXPECT_EQ(image.height, 32);
  ASSERT_EQ(image.pixels.size(), 3072);
  for (size_t i = 0; i < 1024; ++i)
    for (size_t c = 0; c < 3; ++c) ASSERT_EQ(image.pixels[3 * i + c], 1 + 70 * c + i % 51);
}

TEST_F(LabelledPicturesTest, TheTrainingSplitOfCifarTenIsItsFiveBatchesInOrder) {
  write_cifar10();
  const LabelledPictures pictures = open(Split::kTrain);
  EXPECT_EQ(pictures.labels, (std::vector<int64_t>{1, 1, 2, 2, 3, 3, 4, 4, 5, 5}));
  EXPECT_EQ(pictures.picture(9).pixels[0], 15);
}

TEST_F(LabelledPicturesTest, CifarHundredHasItsFineClasses) {
  std::string names;
  for (int i = 0; i < 100; ++i) names += concat("class_", i, '\n');
  write("fine_label_names.txt", names);
  write("coarse_label_names.txt", "fish\n");
  write("test.bin", cifar_record({7, 99}, 5));
  write("train.bin", cifar_record({7, 42}, 5));
  EXPECT_EQ(open().labels, std::vector<int64_t>{99});
  EXPECT_EQ(open().classes[99], "class_99");
  EXPECT_EQ(open().picture(0).pixels[0], 5);
  EXPECT_EQ(open(Split::kTrain).labels, std::vector<int64_t>{42});
}

TEST_F(LabelledPicturesTest, DamagedCifarFilesAreNamed) {
  write_cifar10();
  write("test_batch.bin", cifar_record({9}, 0).substr(1));
  expect_contains(refusal(), "test_batch.bin must hold whole records of 3073 bytes, found 3072");
  write("test_batch.bin", "");
  expect_contains(refusal(), "found 0 bytes");
  write("test_batch.bin", cifar_record({1}, 0) + cifar_record({10}, 0));
  expect_contains(refusal(), "picture 1 must be of one of 10 classes, found class 10");
  fs::remove(folder_.path("test_batch.bin"));
  expect_contains(refusal(), "test_batch.bin");
  write("batches.meta.txt", "airplane\n");
  expect_contains(refusal(), "names of 10 classes, one a line, found 1");
}

TEST_F(LabelledPicturesTest, TheVersionOfCifarForPythonIsToldFromTheBinaryOne) {
  write("data_batch_1", "\x80\x02}q");
  expect_contains(refusal(), "binary version");
}

TEST_F(LabelledPicturesTest, IdxFilesAreGreyPictures) {
  write_idx();
  const LabelledPictures pictures = open();
  EXPECT_EQ(pictures.labels, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(pictures.classes, (Strings{"0", "1", "2", "3"}));
  const Image image = pictures.picture(1);
  EXPECT_EQ(image.width, 3);
  EXPECT_EQ(image.height, 2);
  const std::string grey = "ggghhhiiijjjkkklll";
  EXPECT_EQ(image.pixels, std::vector<uint8_t>(grey.begin(), grey.end()));
}

TEST_F(LabelledPicturesTest, IdxFilesMayBeCompressedAndNamedWithADot) {
  write("train-images.idx3-ubyte.gz", gzip(idx({1, 1, 2}, "xy")));
  write("train-labels-idx1-ubyte.gz", gzip(idx({1}, {4})));
  const LabelledPictures pictures = open(Split::kTrain);
  EXPECT_EQ(pictures.labels, std::vector<int64_t>{4});
  EXPECT_EQ(pictures.picture(0).pixels, (std::vector<uint8_t>{'x', 'x', 'x', 'y', 'y', 'y'}));
}

TEST_F(LabelledPicturesTest, MnistAndFashionMnistAreToldByTheirFirstLabels) {
  write("t10k-images-idx3-ubyte", idx({10, 1, 1}, "0123456789"));
  write("t10k-labels-idx1-ubyte", idx({10}, {7, 2, 1, 0, 4, 1, 4, 9, 5, 9}));
  EXPECT_EQ(open().description, "MNIST " + folder_.path());
  EXPECT_EQ(open().classes[9], "9");
  write("t10k-labels-idx1-ubyte", idx({10}, {9, 2, 1, 1, 6, 1, 4, 6, 5, 7}));
  EXPECT_EQ(open().description, "Fashion-MNIST " + folder_.path());
  EXPECT_EQ(open().classes[9], "Ankle boot");
  EXPECT_EQ(open().classes[0], "T-shirt/top");
}

TEST_F(LabelledPicturesTest, DamagedIdxFilesAreNamed) {
  write_idx({3, 1, 2});
  expect_contains(refusal(), "has 2 pictures, but");
  write_idx();
  write("t10k-images-idx3-ubyte", idx({2, 2, 3}, "abcdefghijk"));
  expect_contains(refusal(),
                  "t10k-images-idx3-ubyte must have 12 bytes after its header, found 11");
  write("t10k-images-idx3-ubyte", idx({2, 2}, "abcd"));
  expect_contains(refusal(), "idx file of bytes in 3 dimensions");
  write("t10k-images-idx3-ubyte", idx({2, 0, 3}, ""));
  expect_contains(refusal(), "its header says otherwise");
  const std::string huge = {0, 0, 8, 3, 127, 0, 0, 0, 127, 0, 0, 0, 127, 0, 0, 0};
  write("t10k-images-idx3-ubyte", huge);
  expect_contains(refusal(), "its header says otherwise");
  write("t10k-images-idx3-ubyte", "");
  expect_contains(refusal(), "t10k-images-idx3-ubyte must begin with the header of an idx file");
  fs::remove(folder_.path("t10k-images-idx3-ubyte"));
  expect_contains(refusal(), "has no t10k-images-idx3-ubyte");
  const std::string whole = gzip(idx({2, 2, 3}, "abcdefghijkl"));
  for (size_t length = 0; length < whole.size(); ++length) {
    write("t10k-images-idx3-ubyte.gz", whole.substr(0, length));
    EXPECT_THROW(open(), Error) << length;
  }
}

TEST_F(LabelledPicturesTest, TheOtherSplitAloneIsNamed) {
  write_idx();
  expect_contains(refusal(Split::kTrain), "t10k-images-idx3-ubyte, but no train-images-idx3-ubyte");
}

TEST_F(LabelledPicturesTest, ClassFoldersAreTheRest) {
  write("maple_tree/a.ppm", picture(1));
  write("cat/b.ppm", picture(2));
  const LabelledPictures pictures = open();
  EXPECT_EQ(pictures.classes, (Strings{"cat", "maple_tree"}));
  EXPECT_EQ(pictures.labels, (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(pictures.picture(1).pixels[0], 1);
  EXPECT_FALSE(find_labelled_files(folder_.path(), Split::kTest).has_value());
}

TEST_F(LabelledPicturesTest, LabelsOfACsvNameTheClassesInSortedOrder) {
  for (const char* name : {"a", "b", "c"}) write(concat(name, ".ppm"), picture(name[0]));
  write("data.csv", "filepath,label\na.ppm,maple_tree\nb.ppm,cat\nc.ppm,maple_tree\n");
  const LabelledPictures pictures = open_labelled_pictures(folder_.path("data.csv"), Split::kTest);
  EXPECT_EQ(pictures.classes, (Strings{"cat", "maple_tree"}));
  EXPECT_EQ(pictures.labels, (std::vector<int64_t>{1, 0, 1}));
  EXPECT_FALSE(pictures.numbered);
  EXPECT_EQ(pictures.picture(1).pixels[0], 'b');
}

TEST_F(LabelledPicturesTest, LabelsThatAreNumbersCountTheClassesFromZero) {
  const std::string shard = write_tar(folder_, "a.tar",
                                      {{"0.ppm", picture(1)},
                                       {"0.cls", "10\n"},
                                       {"0.txt", "no label"},
                                       {"1.ppm", picture(2)},
                                       {"1.cls", "3"}});
  const LabelledPictures pictures = open_labelled_pictures(shard, Split::kTest);
  EXPECT_TRUE(pictures.numbered);
  EXPECT_EQ(pictures.labels, (std::vector<int64_t>{10, 3}));
  ASSERT_EQ(pictures.classes.size(), 11u);
  EXPECT_EQ(pictures.classes[10], "10");
  EXPECT_EQ(pictures.picture(1).pixels[0], 2);
}

TEST_F(LabelledPicturesTest, NumbersTooLargeToCountToAreNames) {
  write("data.csv", "filepath,label\na.ppm,20240101\nb.ppm,3\n");
  const LabelledPictures pictures = open_labelled_pictures(folder_.path("data.csv"), Split::kTest);
  EXPECT_EQ(pictures.classes, (Strings{"20240101", "3"}));
  EXPECT_FALSE(pictures.numbered);
}

TEST_F(LabelledPicturesTest, PicturesWithoutALabelAreNamed) {
  const auto refusal_of = [](const std::string& path) {
    return error_message([&] { open_labelled_pictures(path, Split::kTest); });
  };
  expect_contains(
      refusal_of(write_tar(
          folder_, "a.tar",
          {{"0.ppm", picture(1)}, {"0.cls", "1"}, {"1.ppm", picture(2)}, {"1.txt", "a caption"}})),
      "1.ppm has no .cls of the same base name");
  write("data.csv", "filepath,label\na.ppm,1\nb.ppm,\n");
  expect_contains(refusal_of(folder_.path("data.csv")), "the label of sample 1 is blank");
  write("data.csv", "filepath,title\na.ppm,1\n");
  expect_contains(refusal_of(folder_.path("data.csv")), "no column 'label'");
}

TEST_F(LabelledPicturesTest, TrainingGetsCaptionsOfTheirClasses) {
  write_cifar10();
  const auto data = open_dataset(folder_.path(), {});
  EXPECT_EQ(data->size(), 10);
  EXPECT_EQ(data->get(2, 0).caption, "a photo of a bird");
  EXPECT_EQ(data->captions().size(), 10);
  EXPECT_EQ(data->describe(), concat("CIFAR-10 ", folder_.path(), ": 10 samples of 10 classes"));
  EXPECT_EQ(open_dataset(folder_.path(), {}, Split::kTest)->size(), 2);
  EXPECT_EQ(in_words("maple_tree"), "maple tree");
}

TEST_F(LabelledPicturesTest, SpaceAroundALabelIsNoPartOfIt) {
  write("data.csv", "filepath,label\na.ppm, cat\nb.ppm,cat\nc.ppm,dog \n");
  const LabelledPictures names = open_labelled_pictures(folder_.path("data.csv"), Split::kTest);
  EXPECT_EQ(names.classes, (Strings{"cat", "dog"}));
  EXPECT_EQ(names.labels, (std::vector<int64_t>{0, 0, 1}));
  write("data.csv", "filepath,label\na.ppm, 1\nb.ppm,0\n");
  EXPECT_TRUE(open_labelled_pictures(folder_.path("data.csv"), Split::kTest).numbered);
}

TEST_F(LabelledPicturesTest, TheDescriptionIsKindAndPlace) {
  write("data.csv", "filepath,label\na.ppm,cat\n");
  const std::string csv = folder_.path("data.csv");
  EXPECT_EQ(open_labelled_pictures(csv, Split::kTest).description, "CSV " + csv);
  const std::string shard = write_tar(folder_, "a.tar", {{"0.ppm", picture(1)}, {"0.cls", "1"}});
  EXPECT_EQ(open_labelled_pictures(shard, Split::kTest).description, "tar " + shard);
}

}  // namespace
}  // namespace clip
