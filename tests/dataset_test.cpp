#include "models/dataset.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/dataset_samples.h"
#include "tests/error_message.h"
#include "tests/scratch_folder.h"

namespace clip {
namespace {

std::string csv_error(const ScratchFolder& folder, std::string_view text,
                      const CsvOptions& options = {}) {
  const std::string path = folder.write("bad.csv", text);
  return error_message([&] { open_csv_dataset(path, options); });
}

Strings csv_captions(const ScratchFolder& folder, std::string_view text,
                     const CsvOptions& options = {}) {
  return open_csv_dataset(folder.write("data.csv", text), options)->captions();
}

TEST(CsvDataset, TakesRelativePicturesFromItsOwnFolder) {
  const ScratchFolder folder;
  folder.write("sub/pictures/a.ppm", picture(7));
  const auto data =
      open_csv_dataset(folder.write("sub/data.csv", "filepath,title\npictures/a.ppm,a cat\n"), {});
  EXPECT_EQ(data->size(), 1);
  EXPECT_EQ(red_of(data->get(0, 0)), 7);
  EXPECT_EQ(data->get(0, 0).caption, "a cat");
}

TEST(CsvDataset, TakesAbsolutePicturesAsTheyAre) {
  const ScratchFolder folder;
  const std::string path = folder.write("a.ppm", picture(9));
  const auto data =
      open_csv_dataset(folder.write("sub/data.csv", "filepath,title\n" + path + ",x\n"), {});
  EXPECT_EQ(red_of(data->get(0, 0)), 9);
}

TEST(CsvDataset, UnderstandsQuotesWithSeparatorsQuotesAndLineEndsInside) {
  const ScratchFolder folder;
  EXPECT_EQ(csv_captions(folder,
                         "filepath,title\na,\"one, two\"\nb,\"say \"\"hi\"\"\"\n"
                         "c,\"two\r\nlines\"\n\"d\",\"\"\n"),
            (Strings{"one, two", "say \"hi\"", "two\r\nlines", ""}));
}

TEST(CsvDataset, KeepsAQuoteInsideAFieldThatDoesNotBeginWithOne) {
  const ScratchFolder folder;
  EXPECT_EQ(csv_captions(folder, "filepath,title\na,a 3\" nail\n"), (Strings{"a 3\" nail"}));
}

TEST(CsvDataset, AcceptsAllLineEndsBlankLinesAndNoneAtTheEnd) {
  const ScratchFolder folder;
  const Strings expected{"one", "two"};
  EXPECT_EQ(csv_captions(folder, "filepath,title\r\na,one\r\nb,two\r\n"), expected);
  EXPECT_EQ(csv_captions(folder, "filepath,title\ra,one\rb,two"), expected);
  EXPECT_EQ(csv_captions(folder, "\nfilepath,title\n\na,one\n\nb,two"), expected);
}

TEST(CsvDataset, SkipsAByteOrderMark) {
  const ScratchFolder folder;
  EXPECT_EQ(csv_captions(folder,
                         "\xEF\xBB\xBF"
                         "filepath,title\na,one\n"),
            (Strings{"one"}));
}

TEST(CsvDataset, SeparatesAtTabsIfTheHeaderHoldsOne) {
  const ScratchFolder folder;
  EXPECT_EQ(csv_captions(folder, "title\tfilepath\none, two\ta\n"), (Strings{"one, two"}));
}

TEST(CsvDataset, TakesColumnsAndSeparatorFromItsOptions) {
  const ScratchFolder folder;
  const CsvOptions options{.image_key = "img", .caption_key = "text", .separator = ";"};
  EXPECT_EQ(csv_captions(folder, "id;text;img\n1;a, b;x\n", options), (Strings{"a, b"}));
  const CsvOptions tab{.image_key = "img", .caption_key = "text", .separator = "\\t"};
  EXPECT_EQ(csv_captions(folder, "text\timg\na, b\tx\n", tab), (Strings{"a, b"}));
}

TEST(CsvDataset, NamesTheColumnsFoundIfOneIsMissing) {
  const ScratchFolder folder;
  const std::string error = csv_error(folder, "file,title\na,b\n");
  expect_contains(error, "no column 'filepath'");
  expect_contains(error, "'file', 'title'");
}

TEST(CsvDataset, NamesFileAndLineOfARowWithTooFewOrTooManyFields) {
  const ScratchFolder folder;
  expect_contains(csv_error(folder, "filepath,title\na,\"x\ny\"\nb\n"),
                  "bad.csv:4: expected 2 fields as in the header, found 1");
  expect_contains(csv_error(folder, "filepath,title\na,one, two\n"),
                  "bad.csv:2: expected 2 fields as in the header, found 3");
}

TEST(CsvDataset, NamesTheLineOfAQuoteThatIsNeverClosed) {
  const ScratchFolder folder;
  expect_contains(csv_error(folder, "filepath,title\na,\"one\nb,two\n"), "bad.csv:2: a quoted");
}

TEST(CsvDataset, NamesTheLineOfTextAfterAClosingQuote) {
  const ScratchFolder folder;
  expect_contains(csv_error(folder, "filepath,title\na,\"one\" two\n"), "bad.csv:2: a closing");
}

TEST(CsvDataset, RefusesAFileWithoutSamples) {
  const ScratchFolder folder;
  for (const char* text : {"", "\n\n", "\xEF\xBB\xBF", "filepath,title", "filepath,title\r\n"}) {
    expect_contains(csv_error(folder, text), "holds no sample");
  }
}

TEST(CsvDataset, RefusesBinaryData) {
  const ScratchFolder folder;
  expect_contains(csv_error(folder, std::string_view("f\0i\0l\0e\0", 8)), "zero byte");
}

TEST(CsvDataset, RefusesASeparatorOfSeveralCharacters) {
  const ScratchFolder folder;
  expect_contains(csv_error(folder, "filepath,title\na,b\n", {.separator = ",,"}), "',,'");
}

TEST(CsvDataset, NamesAFileThatIsMissing) {
  const ScratchFolder folder;
  const std::string path = folder.path("none.csv");
  expect_contains(error_message([&] { open_csv_dataset(path, {}); }), path);
}

TEST(CsvDataset, CallsAMissingOrUndecodablePictureABrokenSampleThatNamesIt) {
  const ScratchFolder folder;
  folder.write("bad.jpg", "no picture at all");
  const auto data =
      open_csv_dataset(folder.write("d.csv", "filepath,title\nnone.jpg,x\nbad.jpg,y\n"), {});
  expect_contains(error_message<BrokenSample>([&] { data->get(0, 0); }), folder.path("none.jpg"));
  expect_contains(error_message<BrokenSample>([&] { data->get(1, 0); }), folder.path("bad.jpg"));
}

TEST(FolderDataset, PairsPicturesAndTextsOfSubfoldersInTheOrderOfTheirPaths) {
  const ScratchFolder folder;
  folder.write("data/b.JPG", picture(3));
  folder.write("data/b.txt", " \n the third\t\r\n");
  folder.write("data/a/2.png", picture(2));
  folder.write("data/a/2.TXT", "the second");
  folder.write("data/a/1.jpeg", picture(1));
  folder.write("data/a/1.txt", "the\nfirst");
  const auto data = open_folder_dataset(folder.path("data"));
  ASSERT_EQ(data->size(), 3);
  EXPECT_EQ(data->captions(), (Strings{"the\nfirst", "the second", "the third"}));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(red_of(data->get(i, 0)), i + 1);
    EXPECT_EQ(data->get(i, 0).caption, data->captions()[static_cast<size_t>(i)]);
  }
}

TEST(FolderDataset, CountsPicturesWithoutTextAndLeavesThemOut) {
  const ScratchFolder folder;
  folder.write("data/a.png", picture(1));
  folder.write("data/a.txt", "");
  folder.write("data/b.png", picture(2));
  folder.write("data/c.txt", "text alone");
  const auto data = open_folder_dataset(folder.path("data"));
  EXPECT_EQ(data->size(), 1);
  EXPECT_EQ(data->get(0, 0).caption, "");
  expect_contains(data->describe(), "1 sample (pictures left out for want of a .txt: 1)");
}

TEST(FolderDataset, LeavesHiddenFilesAndFoldersOut) {
  const ScratchFolder folder;
  for (const char* name : {"data/a", "data/._a", "data/.cache/a"}) {
    folder.write(std::string(name) + ".png", picture(1));
    folder.write(std::string(name) + ".txt", "x");
  }
  EXPECT_EQ(open_folder_dataset(folder.path("data"))->size(), 1);
}

TEST(FolderDataset, EndsWhenAFolderLinksToItself) {
  const ScratchFolder folder;
  folder.write("data/a.png", picture(1));
  folder.write("data/a.txt", "x");
  std::filesystem::create_directory_symlink(folder.path("data"), folder.path("data/loop"));
  EXPECT_EQ(open_folder_dataset(folder.path("data"))->size(), 1);
}

TEST(FolderDataset, CallsAnUndecodablePictureABrokenSample) {
  const ScratchFolder folder;
  folder.write("data/a.png", "nothing");
  folder.write("data/a.txt", "x");
  const auto data = open_folder_dataset(folder.path("data"));
  expect_contains(error_message<BrokenSample>([&] { data->get(0, 0); }), "a.png");
}

TEST(FolderDataset, SaysWhatItExpectedOfAFolderOfClasses) {
  const ScratchFolder folder;
  folder.write("data/cat/1.png", picture(1));
  folder.write("data/dog/1.png", picture(2));
  const std::string error = error_message([&] { open_folder_dataset(folder.path("data")); });
  expect_contains(error, "each with a .txt of the same name");
  expect_contains(error, "2 pictures without one");
  expect_contains(error, "zero_shot");
}

TEST(FolderDataset, NamesAFolderThatIsMissingOrAFile) {
  const ScratchFolder folder;
  const std::string none = folder.path("none"), file = folder.write("file", "");
  expect_contains(error_message([&] { open_folder_dataset(none); }), "there is no folder " + none);
  expect_contains(error_message([&] { open_folder_dataset(file); }), file + " is not a folder");
}

TEST(ClassFolder, ListsSortedClassesAndTheirPictures) {
  const ScratchFolder folder;
  folder.write("data/dog/b.JPG", "");
  folder.write("data/dog/a.png", "");
  folder.write("data/cat/more/c.gif", "");
  folder.write("data/cat/notes.txt", "");
  folder.write("data/.hidden/d.png", "");
  const ClassFolder classes = read_class_folder(folder.path("data"));
  EXPECT_EQ(classes.classes, (Strings{"cat", "dog"}));
  ASSERT_EQ(classes.pictures.size(), 3u);
  const std::pair<const char*, int64_t> expected[] = {
      {"data/cat/more/c.gif", 0}, {"data/dog/a.png", 1}, {"data/dog/b.JPG", 1}};
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(classes.pictures[i].path, folder.path(expected[i].first));
    EXPECT_EQ(classes.pictures[i].label, expected[i].second);
  }
}

TEST(ClassFolder, NamesAClassWithoutPictures) {
  const ScratchFolder folder;
  folder.write("data/cat/a.png", "");
  folder.write("data/dog/a.txt", "");
  expect_contains(error_message([&] { read_class_folder(folder.path("data")); }),
                  folder.path("data/dog") + " holds no picture");
}

TEST(PicturesUnder, ListsWhatIsReadAndWebPSoThatItIsMissedByName) {
  const ScratchFolder folder;
  for (const char* name : {"a.pgm", "b.PNM", "c.webp", "d.jpeg", "e.txt", "f"})
    folder.write(concat("data/", name), "");
  const Strings expected = {folder.path("data/a.pgm"), folder.path("data/b.PNM"),
                            folder.path("data/c.webp"), folder.path("data/d.jpeg")};
  EXPECT_EQ(pictures_under(folder.path("data")), expected);
}

TEST(ClassFolder, RefusesAFolderWithoutSubfolders) {
  const ScratchFolder folder;
  folder.write("data/a.png", "");
  expect_contains(error_message([&] { read_class_folder(folder.path("data")); }), "no subfolder");
}

TEST(OpenDataset, ChoosesByTheFormOfTheArgument) {
  const ScratchFolder folder;
  folder.write("data/a.ppm", picture(1));
  folder.write("data/a.txt", "x");
  folder.write("d.csv", "filepath,title\ndata/a.ppm,x\n");
  folder.write("d.TSV", "filepath\ttitle\ndata/a.ppm\tx\n");
  write_tar(folder, "d.tar", {{"a.png", picture(1)}, {"a.txt", "x"}});
  for (const auto& [argument, kind] :
       std::vector<std::pair<std::string, std::string>>{{"data", "folder"},
                                                        {"d.csv", "CSV"},
                                                        {"d.TSV", "CSV"},
                                                        {"d.tar", "tar"},
                                                        {"{d,d}.tar", "tar"}}) {
    const auto data = open_dataset(folder.path(argument), {});
    EXPECT_TRUE(data->describe().starts_with(kind)) << data->describe();
    EXPECT_EQ(red_of(data->get(0, 0)), 1);
  }
}

TEST(OpenDataset, SaysWhatItExpectedOfAnArgumentOfNoKnownForm) {
  expect_contains(error_message([] { open_dataset("no/such/place", {}); }), "'no/such/place'");
}

}  // namespace
}  // namespace clip
