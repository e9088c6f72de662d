// apps/zero_shot from outside: what it prints is what the library computes step by step.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "models/labelled_pictures.h"
#include "models/safetensors.h"
#include "models/zero_shot.h"
#include "tests/app_process.h"
#include "tests/app_samples.h"

namespace clip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const Strings kClasses = {"cat", "dog", "green_bird", "house", "lion", "sea", "tree"};
const Strings kWords = {"cat", "dog", "green bird", "house", "lion", "sea", "tree"};

/// What stands before and after the label.
using Templates = std::vector<std::pair<std::string, std::string>>;
const Templates kPhoto = {{"a photo of a ", ""}};

/// The model is a checkpoint of the run "runs/a"; three pictures lie beside it.
class ZeroShotApp : public AppWithModel {
 protected:
  ZeroShotApp() : AppWithModel("runs/a/checkpoints/step_7") {
    for (int64_t i = 0; i < 3; ++i)
      save_png(noise_picture(24, 20, static_cast<uint64_t>(i)), folder_.path(concat(i, ".png")));
  }

  std::string checkpoint() const { return folder_.path("runs/a/checkpoints/step_7"); }

  AppResult zero_shot(const Strings& own) const {
    return run_app("zero_shot", with({"--checkpoint", "runs/a", "--device", "cpu"}, own), folder_);
  }

  json zero_shot_json(const Strings& own) const {
    Strings all = own;
    all.push_back("--json");
    const AppResult result = zero_shot(all);
    EXPECT_EQ(result.status, 0) << result.err;
    return json::parse(result.out);
  }

  Tensor features_of(const Strings& paths) const {
    return image_features(model_.clip, static_cast<int64_t>(paths.size()), [&](int64_t i) {
      return resize_and_center_crop(load_image(folder_.path(paths[static_cast<size_t>(i)])),
                                    config().vision.image_size);
    });
  }

  /// The sums that define it: prompts' unit vectors averaged and made unit, then softmax.
  std::vector<double> probabilities(const std::string& picture, const Strings& labels,
                                    const Templates& templates) const {
    const Tensor image = features_of({picture});
    const int64_t width = image.width();
    std::vector<double> logits, result;
    for (const std::string& label : labels) {
      Strings prompts;
      for (const auto& [before, after] : templates) prompts.push_back(before + label + after);
      const Tensor text = text_features(model_.clip, tokenizer_, prompts);
      double dot = 0, squares = 0;
      for (int64_t c = 0; c < width; ++c) {
        double sum = 0;
        for (int64_t row = 0; row < text.size(0); ++row) sum += text.data<float>()[row * width + c];
        dot += sum * image.data<float>()[c];
        squares += sum * sum;
      }
      logits.push_back(dot / std::sqrt(squares) / 0.07);
    }
    double total = 0;
    for (double logit : logits) total += std::exp(logit);
    for (double logit : logits) result.push_back(std::exp(logit) / total);
    return result;
  }

  /// The three templates of several tests, as a prompts file has them for each label.
  static std::string prompts_json(const Strings& labels) {
    json prompts;
    for (const std::string& label : labels)
      prompts[label] = {"a photo of a " + in_words(label) + ".", "the {} by the sea", "{}"};
    return prompts.dump();
  }

  /// Expects a picture's guesses to be all labels, most probable first, as `expected` has them.
  static void expect_guesses(const json& guesses, const Strings& labels,
                             const std::vector<double>& expected) {
    ASSERT_EQ(guesses.size(), labels.size());
    double last = 1;
    for (const json& guess : guesses) {
      const auto place = std::find(labels.begin(), labels.end(), guess["label"]);
      ASSERT_NE(place, labels.end()) << guess;
      const double probability = guess["probability"];
      // F32 features of about 1 times a scale of 14.
      EXPECT_NEAR(probability, expected[static_cast<size_t>(place - labels.begin())], 1e-5);
      EXPECT_LE(probability, last);
      last = probability;
    }
  }

  /// DIR/<class>/<k>.png for the classes above, `per_class` pictures each.
  Strings write_classes(int64_t per_class) const {
    Strings paths;
    for (size_t c = 0; c < kClasses.size(); ++c) {
      for (int64_t i = 0; i < per_class; ++i) {
        paths.push_back(concat("data/", kClasses[c], '/', i, ".png"));
        save_png(noise_picture(20, 20, 100 * c + static_cast<uint64_t>(i)),
                 folder_.path(paths.back()));
      }
    }
    return paths;
  }
};

TEST_F(ZeroShotApp, HelpShowsDefaultsAndExamples) {
  const AppResult result = run_app("zero_shot", {"--help"}, folder_);
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.err, "");
  for (const char* part : {"./apps/zero_shot --checkpoint", "--top-k arg (=5)", "a photo of a {}"})
    expect_contains(result.out, part);
}

TEST_F(ZeroShotApp, PrintsATableForEveryPicture) {
  const AppResult result =
      zero_shot({"--images", "0.png", "1.png", "--labels", "red car, blue car", "--top-k", "2"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.err, "");
  const Strings lines = lines_of(result.out);
  ASSERT_EQ(lines.size(), 6u) << result.out;
  EXPECT_EQ(lines[0], "0.png");
  EXPECT_EQ(lines[3], "1.png");
  const auto expected = probabilities("0.png", {"red car", "blue car"}, kPhoto);
  const size_t first = expected[0] >= expected[1] ? 0 : 1;
  const double percent[] = {100 * expected[first], 100 * expected[1 - first]};
  const char* labels[] = {first == 0 ? "red car" : "blue car", first == 0 ? "blue car" : "red car"};
  for (size_t k = 0; k < 2; ++k) {
    EXPECT_NEAR(std::stod(lines[k + 1]), percent[k], 0.0051) << lines[k + 1];
    EXPECT_TRUE(lines[k + 1].ends_with(concat(" %  ", labels[k]))) << lines[k + 1];
  }
}

TEST_F(ZeroShotApp, JsonHoldsTheProbabilitiesOfTheDefinition) {
  const Strings labels = {"cat", "dog", "sea"};
  const json shown =
      zero_shot_json({"--images", "0.png", "1.png", "2.png", "--labels", "cat,dog,sea"});
  ASSERT_EQ(shown.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    const std::string picture = concat(i, ".png");
    EXPECT_EQ(shown[i]["image"], picture);
    expect_guesses(shown[i]["guesses"], labels, probabilities(picture, labels, kPhoto));
  }
}

TEST_F(ZeroShotApp, SeveralTemplatesAreAveragedAsUnitVectors) {
  const Strings labels = {"cat", "house"};
  const Templates templates = {{"a photo of a ", "."}, {"the ", " by the sea"}, {"", ""}};
  const auto expected = probabilities("0.png", labels, templates);
  const json shown =
      zero_shot_json({"--images", "0.png", "--labels", "cat,house", "--template",
                      "a photo of a {}.", "--template", "the {} by the sea", "--template", "{}"});
  expect_guesses(shown[0]["guesses"], labels, expected);
  folder_.write("templates.txt", "a photo of a {}.\r\n\n  the {} by the sea  \n{}");
  const json from_file = zero_shot_json(
      {"--images", "0.png", "--labels", "cat,house", "--templates-file", "templates.txt"});
  EXPECT_EQ(from_file, shown);
  const json mixed = zero_shot_json({"--images", "0.png", "--labels", "cat,house"});
  EXPECT_NE(mixed, shown);
}

TEST_F(ZeroShotApp, PromptsOfEachClassAreAveragedWithWhatTemplatesThereAre) {
  const Strings labels = {"cat", "green bird"},
                ask = {"--images", "0.png", "--labels", "cat,green bird"};
  const auto shown = [&](const Strings& more) { return zero_shot_json(with(ask, more)); };
  folder_.write("prompts.json", prompts_json({"cat", "green_bird", "unused"}));
  expect_guesses(
      shown({"--prompts", "prompts.json"})[0]["guesses"], labels,
      probabilities("0.png", labels, {{"a photo of a ", "."}, {"the ", " by the sea"}, {"", ""}}));
  // Its own three and one more for all; the lists need not be of one length.
  folder_.write("prompts.json", R"({"cat": ["a cat"], "green bird": ["a green bird", "the sea"]})");
  const json own = shown({"--prompts", "prompts.json"});
  folder_.write("prompts.json", R"({"cat": ["a cat"], "green bird": ["the sea", "a {}"]})");
  EXPECT_EQ(shown({"--prompts", "prompts.json"}), own);
  folder_.write("prompts.json", R"({"cat": ["a cat"], "green bird": ["the sea"]})");
  const json both = shown({"--prompts", "prompts.json", "--template", "the {}"});
  EXPECT_NE(both, own);
  EXPECT_NE(both, shown({"--prompts", "prompts.json"}));
}

TEST_F(ZeroShotApp, APromptsFileThatDoesNotFitIsRefusedBeforeTheModelIsRead) {
  const auto refuses = [&](const std::string& text, const Strings& parts) {
    folder_.write("p.json", text);
    expect_refused(run_app("zero_shot",
                           {"--checkpoint", "none", "--images", "0.png", "--labels", "cat,dog",
                            "--prompts", "p.json"},
                           folder_),
                   "zero_shot", 1, parts);
  };
  refuses(R"({"cat": ["a cat"]})", {"p.json", "no prompts for the label \"dog\""});
  refuses(R"(["a cat"])", {"p.json", "an object of labels"});
  refuses(R"({"cat": ["a cat"], "dog": []})", {"list of prompts for \"dog\"", "found []"});
  refuses(R"({"cat": "a cat", "dog": ["a dog"]})", {"list of prompts for \"cat\""});
  refuses(R"({"cat": ["a cat", 1], "dog": ["a dog"]})", {"list of prompts for \"cat\""});
  refuses(R"({"cat": ["a cat"], "cat": ["a cat"]})", {"\"cat\" occurs twice"});
  refuses("{", {"p.json", "no valid JSON"});
  refuses(R"({"cat": ["a cat"], "dog": ["a dog"]})", {"none"});  // now it is the model's turn
}

TEST_F(ZeroShotApp, ALabelsFileHoldsALabelALineCommasIncluded) {
  folder_.write("labels.txt", "cat, or two\r\n\nhouse\n");
  const Strings labels = {"cat, or two", "house"};
  const json shown = zero_shot_json({"--images", "1.png", "--labels-file", "labels.txt"});
  expect_guesses(shown[0]["guesses"], labels, probabilities("1.png", labels, kPhoto));
}

TEST_F(ZeroShotApp, TopKShowsTheBestOnly) {
  const Strings labels = {"--images", "0.png", "--labels", "cat,dog,sea,tree,lion,house"};
  const auto shown = [&](const Strings& more) {
    return zero_shot_json(with(labels, more))[0]["guesses"];
  };
  const json all = shown({"--top-k", "99"});
  ASSERT_EQ(all.size(), 6u);
  EXPECT_EQ(shown({}).size(), 5u);
  const json two = shown({"--top-k", "2"});
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0], all[0]);
  EXPECT_EQ(two[1], all[1]);
}

TEST_F(ZeroShotApp, ClassFoldersGiveTheAccuraciesOfTheLibrary) {
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

TEST_F(ZeroShotApp, FilesOfMnistsKindCountAsTheSamePicturesInClassFolders) {
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

TEST_F(ZeroShotApp, CsvAndTarShardsCountAsTheSamePicturesInClassFolders) {
  const Strings paths = write_classes(3);
  write_labelled(folder_, paths, [](int64_t c) { return kClasses[static_cast<size_t>(c)]; });
  const json expected = zero_shot_json({"--data", "data"});
  EXPECT_EQ(zero_shot_json(kCsv), expected);
  EXPECT_EQ(zero_shot_json({"--data", "data.tar"}), expected);
}

TEST_F(ZeroShotApp, NumberedClassesAreNamedByLabelsOfWhichTheLastMayHaveNoPicture) {
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

TEST_F(ZeroShotApp, ALineForEachClassSaysTheWorstFirstAndWhatItWasTakenFor) {
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

TEST_F(ZeroShotApp, FollowsTheCheckpointsRulesForPictures) {
  const Strings ask = {"--images", "0.png", "--labels", "red car,blue car"};
  const json before = zero_shot_json(ask);
  const std::string path = checkpoint() + "/open_clip_config.json";
  std::ifstream file(path);
  json whole = json::parse(file);
  whole["preprocess_cfg"].update({{"resize_mode", "squash"}, {"mean", {0.5, 0.5, 0.5}}});
  std::ofstream(path) << whole;
  const json after = zero_shot_json(ask);
  EXPECT_NE(after, before);

  ClipConfig changed = config();
  changed.vision.preprocess.resize_mode = ResizeMode::kSquash;
  changed.vision.preprocess.mean.fill(0.5);
  ClipModel model(changed, cpu_backend());
  initialize(model.parameters, changed, 5);
  const Tensor image = image_features(model.clip, 1, [&](int64_t) {
    return prepare_image(load_image(folder_.path("0.png")), changed.vision.image_size,
                         changed.vision.preprocess);
  });
  const Classifier classifier =
      build_classifier(model.clip, tokenizer_, {{"red car", "blue car"}, {"a photo of a {}"}});
  const Guess best = classify(classifier, image, std::log(1 / 0.07))[0][0];
  EXPECT_NEAR(after[0]["guesses"][0]["probability"].get<double>(), best.probability, 1e-6);
}

TEST_F(ZeroShotApp, TheMeanPerClassWeighsClassesAlike) {
  // Four times the same picture, so the same answer: right for one class and wrong for the other.
  save_png(noise_picture(20, 20, 3), folder_.path("two/a/0.png"));
  for (int64_t i = 0; i < 3; ++i)
    save_png(noise_picture(20, 20, 3), folder_.path(concat("two/b/", i, ".png")));
  const json shown = zero_shot_json({"--data", "two"});
  EXPECT_EQ(shown["mean_per_class"], 0.5);
  EXPECT_TRUE(shown["top1"] == 0.25 || shown["top1"] == 0.75) << shown;
  EXPECT_EQ(shown["top5"], 1);
}

TEST_F(ZeroShotApp, LabelsNameTheFoldersInTheirSortedOrder) {
  const Strings paths = write_classes(1);
  const std::string in_order = "cat,dog,green bird,house,lion,sea,tree";
  EXPECT_EQ(zero_shot_json({"--data", "data", "--labels", in_order}),
            zero_shot_json({"--data", "data"}));
  expect_refused(zero_shot({"--data", "data", "--labels", "cat,dog"}), "zero_shot", 2,
                 {"2 classes", "data has 7"});
}

TEST_F(ZeroShotApp, BrokenPicturesOfClassFoldersAreSkippedAndNamed) {
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

TEST_F(ZeroShotApp, ManyBrokenPicturesInARowAreSkippedToo) {
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

TEST_F(ZeroShotApp, ASavedClassifierIsUsedByTheNextRunOfTheSameWords) {
  const Strings question = {"--images", "0.png", "--labels", "cat,dog"};
  Strings saving = question;
  saving.push_back("--save-classifier");
  const json before = zero_shot_json(question);
  EXPECT_FALSE(fs::exists(checkpoint() + "/classifiers"));
  EXPECT_EQ(zero_shot_json(saving), before);
  const fs::path folder = checkpoint() + "/classifiers";
  ASSERT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 1);
  EXPECT_EQ(zero_shot_json(question), before);

  // Exchanged class vectors exchange the answers: the file is what is used.
  auto saved = find_classifier(checkpoint(), {{"cat", "dog"}, {"a photo of a {}"}});
  ASSERT_TRUE(saved.has_value());
  float* weights = saved->weights.data<float>();
  std::swap_ranges(weights, weights + saved->weights.width(), weights + saved->weights.width());
  save_classifier(checkpoint(), *saved);
  const json exchanged = zero_shot_json(question);
  EXPECT_NE(exchanged, before);
  EXPECT_EQ(exchanged[0]["guesses"][0]["probability"], before[0]["guesses"][0]["probability"]);
  EXPECT_EQ(exchanged[0]["guesses"][0]["label"], before[0]["guesses"][1]["label"]);
  // So are prompts of classes; those of others are not.
  folder_.write("prompts.json", prompts_json({"cat", "dog"}));
  Strings prompted = {"--images",  "0.png",        "--labels",         "cat,dog",
                      "--prompts", "prompts.json", "--save-classifier"};
  const json with_prompts = zero_shot_json(prompted);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 2);
  EXPECT_EQ(zero_shot_json(prompted), with_prompts);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 2);
  EXPECT_NE(with_prompts, before);
  // Other words are computed.
  expect_guesses(zero_shot_json({"--images", "0.png", "--labels", "cat,sea"})[0]["guesses"],
                 {"cat", "sea"}, probabilities("0.png", {"cat", "sea"}, kPhoto));
}

TEST_F(ZeroShotApp, SaysWhyItTakesTheCpuBesideWhatItPrints) {
  const Strings question = {"--images", "0.png", "--labels", "cat,dog", "--json"};
  const AppResult named = zero_shot(question);
  const AppResult chosen =
      run_app("zero_shot", with({"--checkpoint", "runs/a"}, question), folder_);
  const std::string why = why_the_cpu();
  EXPECT_EQ(chosen.err, why.empty() ? "" : "device " + why);
  EXPECT_EQ(json::parse(chosen.out).size(), 1);
  EXPECT_EQ(named.err, "");
}

TEST_F(ZeroShotApp, TakesARunOrOneOfItsCheckpoints) {
  const Strings question = {"--images", "0.png", "--labels", "cat,dog"};
  const AppResult of_run = zero_shot(question);
  const Strings all = with({"--checkpoint", "runs/a/checkpoints/step_7"}, question);
  const AppResult of_checkpoint = run_app("zero_shot", all, folder_);
  EXPECT_EQ(of_checkpoint.status, 0) << of_checkpoint.err;
  EXPECT_EQ(of_checkpoint.out, of_run.out);
}

}  // namespace
}  // namespace clip
