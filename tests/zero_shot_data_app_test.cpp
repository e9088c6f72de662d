// apps/zero_shot on labelled pictures: the accuracies it prints are the library's.
#include <filesystem>
#include <map>
#include <sstream>

#include "tests/zero_shot_app_test.h"

namespace clip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

using ZeroShotData = ZeroShotApp;

const Strings kWords = {"cat", "dog", "green bird", "house", "lion", "sea", "tree"};

TEST_F(ZeroShotData, ClassFoldersGiveTheAccuraciesOfTheLibrary) {
  // More pictures than one round of the program holds in memory (256).
  const int64_t per_class = 40;
  const Strings paths = write_classes(per_class);
  const Classifier classifier =
      build_classifier(model_.clip, tokenizer_, {kWords, {"a photo of a {}"}});
  const auto guesses = classify(classifier, features_of(paths), std::log(1 / 0.07));
  double top1 = 0, top5 = 0;
  std::vector<double> per(kClasses.size(), 0.0);
  for (size_t i = 0; i < paths.size(); ++i) {
    const auto label = static_cast<int64_t>(i) / per_class;
    for (size_t k = 0; k < 5; ++k) top5 += guesses[i][k].label == label ? 1 : 0;
    if (guesses[i][0].label != label) continue;
    top1 += 1;
    per[static_cast<size_t>(label)] += 1;
  }
  const double pictures = static_cast<double>(paths.size());
  ASSERT_GT(top5, top1);
  ASSERT_LT(top5, pictures);
  const json shown = zero_shot_json({"--data", "data"});
  EXPECT_EQ(shown["pictures"], paths.size());
  EXPECT_EQ(shown["broken"], 0);
  EXPECT_DOUBLE_EQ(shown["top1"], top1 / pictures);
  EXPECT_DOUBLE_EQ(shown["top5"], top5 / pictures);
  for (size_t c = 0; c < kClasses.size(); ++c)
    EXPECT_DOUBLE_EQ(shown["per_class"][kClasses[c]], per[c] / 40) << kClasses[c];

  const AppResult table = zero_shot({"--data", "data"});
  ASSERT_EQ(table.status, 0) << table.err;
  const Strings lines = lines_of(table.out);
  ASSERT_EQ(lines.size(), 4u) << table.out;
  EXPECT_EQ(lines[0], "280 pictures of 7 classes");
  EXPECT_NEAR(std::stod(lines[1].substr(16)), 100 * top1 / pictures, 0.0051) << lines[1];
  EXPECT_NEAR(std::stod(lines[2].substr(16)), 100 * top5 / pictures, 0.0051) << lines[2];
}

TEST_F(ZeroShotData, FilesOfMnistsKindCountAsTheSamePicturesInClassFolders) {
  constexpr int kPictures = 9, kSide = 20;
  std::string pixels = {0, 0, 8, 3, 0, 0, 0, kPictures, 0, 0, 0, kSide, 0, 0, 0, kSide};
  std::string labels = {0, 0, 8, 1, 0, 0, 0, kPictures};
  for (int i = 0; i < kPictures; ++i) {
    Image grey = noise_picture(kSide, kSide, static_cast<uint64_t>(i));
    for (size_t p = 0; p < grey.pixels.size(); p += 3) {
      grey.pixels[p + 1] = grey.pixels[p + 2] = grey.pixels[p];
      pixels += static_cast<char>(grey.pixels[p]);
    }
    labels += static_cast<char>(i % 3);
    save_png(grey, folder_.path(concat("folders/", i % 3, '/', i, ".png")));
  }
  folder_.write("files/t10k-images-idx3-ubyte", pixels);
  folder_.write("files/t10k-labels-idx1-ubyte", labels);
  const json shown = zero_shot_json({"--data", "files"});
  EXPECT_EQ(shown["pictures"], kPictures);
  EXPECT_EQ(shown, zero_shot_json({"--data", "folders"}));
}

/// data.csv and data.tar of the pictures in data/, whose labels are what label(class) says.
template <class Label>
void write_labelled(const ScratchFolder& folder, const Strings& paths, const Label& label) {
  std::string csv = "path,class\n";
  std::vector<Member> members;
  for (const std::string& path : paths) {
    const std::string name = fs::path(path).parent_path().filename().string();
    const auto number = std::find(kClasses.begin(), kClasses.end(), name) - kClasses.begin();
    csv += path + ',' + label(number) + '\n';
    const std::string key = concat(members.size() / 2);
    members.push_back({key + ".png", file_bytes(folder.path(path))});
    members.push_back({key + ".cls", label(number) + '\n'});
  }
  folder.write("data.csv", csv);
  write_tar(folder, "data.tar", members);
}

const Strings kCsv = {"--data", "data.csv", "--csv-img-key", "path", "--csv-label-key", "class"};

TEST_F(ZeroShotData, CsvAndTarShardsCountAsTheSamePicturesInClassFolders) {
  const Strings paths = write_classes(3);
  write_labelled(folder_, paths, [](int64_t c) { return kClasses[static_cast<size_t>(c)]; });
  const json expected = zero_shot_json({"--data", "data"});
  EXPECT_EQ(zero_shot_json(kCsv), expected);
  EXPECT_EQ(zero_shot_json({"--data", "data.tar"}), expected);
}

TEST_F(ZeroShotData, NumberedClassesAreNamedByLabelsOfWhichTheLastMayHaveNoPicture) {
  const Strings paths = write_classes(3);
  write_labelled(folder_, paths, [](int64_t c) { return concat(c); });
  const json expected = zero_shot_json({"--data", "data"});
  const std::string labels = "cat,dog,green bird,house,lion,sea,tree";
  for (const char* data : {"data.csv", "data.tar"}) {
    Strings ask = {"--data", data, "--csv-img-key", "path", "--csv-label-key", "class"};
    expect_refused(zero_shot(ask), "zero_shot", 2, {data, "are numbers", "--labels-file"});
    ask.insert(ask.end(), {"--labels", "cat,dog"});
    expect_refused(zero_shot(ask), "zero_shot", 2, {"2 classes", "has 7"});
    ask.back() = labels;
    json shown = zero_shot_json(ask);
    for (size_t c = 0; c < kClasses.size(); ++c)
      EXPECT_EQ(shown.at("per_class").at(concat(c)), expected.at("per_class").at(kClasses[c]));
    EXPECT_EQ(shown.at("top1"), expected.at("top1"));
    EXPECT_EQ(shown.at("top5"), expected.at("top5"));
    ask.back() = labels + ",zebra";
    shown = zero_shot_json(ask);
    EXPECT_TRUE(shown.at("per_class").at("7").is_null());
    EXPECT_EQ(shown["pictures"], 21);
  }
}

TEST_F(ZeroShotData, ALineForEachClassSaysTheWorstFirstAndWhatItWasTakenFor) {
  const Strings paths = write_classes(12);
  folder_.write("data/zebra/none.png", "no picture");
  const json shown = zero_shot_json({"--data", "data"});
  std::map<std::string, std::string> mistakes;  // of each class, as the line should end
  const Classifier classifier =
      build_classifier(model_.clip, tokenizer_, {kWords, {"a photo of a {}"}});
  const auto guesses = classify(classifier, features_of(paths), std::log(1 / 0.07));
  for (size_t c = 0; c < kClasses.size(); ++c) {
    std::vector<int> taken(kClasses.size());
    for (size_t i = 0; i < 12; ++i) ++taken[static_cast<size_t>(guesses[12 * c + i][0].label)];
    taken[c] = 0;
    const auto most = std::max_element(taken.begin(), taken.end());
    mistakes[kClasses[c]] =
        concat("taken for ", kClasses[static_cast<size_t>(most - taken.begin())], ": ", *most);
  }
  const AppResult result = zero_shot({"--data", "data", "--per-class"});
  ASSERT_EQ(result.status, 0) << result.err;
  const Strings lines = lines_of(result.out);
  ASSERT_EQ(lines.size(), 5 + kClasses.size()) << result.out;
  EXPECT_EQ(lines[4], "Each class, the worst first");
  double last = 0;
  for (size_t i = 5; i < lines.size(); ++i) {
    std::istringstream words(lines[i]);
    double percent = 0, right = 0, tried = 0;
    std::string sign, of, name, taken;
    words >> percent >> sign >> right >> of >> tried >> name >> taken;
    EXPECT_GE(percent, last) << lines[i];
    EXPECT_EQ(tried, 12);
    EXPECT_NEAR(percent, 100 * right / tried, 0.0051) << lines[i];
    EXPECT_EQ(shown["per_class"][name], right / tried) << lines[i];
    if (right == tried) {
      EXPECT_EQ(taken, "");
    } else {
      EXPECT_EQ(lines[i].substr(lines[i].find("taken")), mistakes.at(name)) << lines[i];
    }
    last = percent;
  }
}

TEST_F(ZeroShotData, TheMeanPerClassWeighsClassesAlike) {
  // Four times the same picture, so the same answer: right for one class and wrong for the other.
  save_png(noise_picture(20, 20, 3), folder_.path("two/a/0.png"));
  for (int64_t i = 0; i < 3; ++i)
    save_png(noise_picture(20, 20, 3), folder_.path(concat("two/b/", i, ".png")));
  const json shown = zero_shot_json({"--data", "two"});
  EXPECT_EQ(shown["mean_per_class"], 0.5);
  EXPECT_TRUE(shown["top1"] == 0.25 || shown["top1"] == 0.75) << shown;
  EXPECT_EQ(shown["top5"], 1);
}

TEST_F(ZeroShotData, LabelsNameTheFoldersInTheirSortedOrder) {
  const Strings paths = write_classes(1);
  const std::string in_order = "cat,dog,green bird,house,lion,sea,tree";
  EXPECT_EQ(zero_shot_json({"--data", "data", "--labels", in_order}),
            zero_shot_json({"--data", "data"}));
  expect_refused(zero_shot({"--data", "data", "--labels", "cat,dog"}), "zero_shot", 2,
                 {"2 classes", "data has 7"});
}

TEST_F(ZeroShotData, BrokenPicturesOfClassFoldersAreSkippedAndNamed) {
  write_classes(2);
  const std::string whole = file_bytes(folder_.path("data/cat/0.png"));
  folder_.write("data/cat/cut.png", whole.substr(0, whole.size() / 2));
  folder_.write("data/zebra/none.png", "no picture");
  const AppResult result = zero_shot({"--data", "data"});
  EXPECT_EQ(result.status, 0);
  expect_contains(result.out, "14 pictures of 8 classes (2 could not be read)");
  EXPECT_EQ(lines_of(result.err).size(), 2u) << result.err;
  expect_contains(result.err, "data/cat/cut.png");
  expect_contains(result.err, "data/zebra/none.png");
  const json shown = zero_shot_json({"--data", "data"});
  EXPECT_EQ(shown["broken"], 2);
  EXPECT_EQ(shown["pictures"], 14);
  EXPECT_TRUE(shown.at("per_class").at("zebra").is_null());
  EXPECT_TRUE(shown["per_class"]["cat"].is_number());
}

TEST_F(ZeroShotData, ManyBrokenPicturesInARowAreSkippedToo) {
  for (int64_t i = 0; i < 256; ++i) folder_.write(concat("data/a/", i, ".png"), "no picture");
  save_png(noise_picture(20, 20, 3), folder_.path("data/b/0.png"));
  const json shown = zero_shot_json({"--data", "data"});
  EXPECT_EQ(shown["broken"], 256);
  EXPECT_EQ(shown["pictures"], 1);
  fs::remove(folder_.path("data/b/0.png"));
  folder_.write("data/b/0.png", "no picture");
  const AppResult result = zero_shot({"--data", "data"});
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(lines_of(result.err).back(), "zero_shot: none of the 257 pictures can be read");
}

}  // namespace
}  // namespace clip
