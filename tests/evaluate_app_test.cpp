// apps/evaluate from outside: its figures are what the library computes step by step.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/random.h"
#include "models/embedding_stream.h"
#include "models/evaluation.h"
#include "models/features.h"
#include "models/logistic_regression.h"
#include "models/preprocess.h"
#include "models/retrieval.h"
#include "tests/app_process.h"
#include "tests/app_samples.h"

namespace clip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class EvaluateApp : public AppWithModel {
 protected:
  EvaluateApp() : AppWithModel("model") {}

  AppResult evaluate(const std::string& word, const Strings& own) const {
    return run_app("evaluate", with({word, "--checkpoint", "model", "--device", "cpu"}, own),
                   folder_);
  }

  json figures(const std::string& word, Strings own) const {
    own.insert(own.end(), {"--json", "figures.json"});
    const AppResult result = evaluate(word, own);
    EXPECT_EQ(result.status, 0) << result.err;
    return json::parse(file_bytes(folder_.path("figures.json")));
  }

  Tensor features_of(const Strings& paths) const {
    return image_features(model_.clip, std::ssize(paths), [&](int64_t i) {
      return prepare_image(load_image(folder_.path(paths[static_cast<size_t>(i)])),
                           config().vision.image_size, {});
    });
  }
};

/// 31 pictures with 1 to 3 captions each, as data.csv (shuffled rows), data.tar and data/.
class EvaluateRetrieval : public EvaluateApp {
 protected:
  static constexpr int64_t kPictures = 31;

  EvaluateRetrieval() {
    std::string csv = "picture\tcaption\n";
    std::vector<Member> members;
    for (int64_t i = 0; i < kPictures; ++i) {
      paths_.push_back(concat("data/", sample_name(i), ".png"));
      save_png(noise_picture(20, 18, static_cast<uint64_t>(i)), folder_.path(paths_.back()));
      std::string text;
      for (int64_t k = 0; k <= i % 3; ++k) {
        captions_.push_back(sample_caption(7 * i + k));
        image_of_.push_back(i);
        text += captions_.back() + '\n';
      }
      members.push_back({sample_name(i) + ".png", file_bytes(folder_.path(paths_.back()))});
      members.push_back({sample_name(i) + ".txt", text});
      folder_.write(concat("data/", sample_name(i), ".txt"), text);
    }
    for (int64_t k = 0; k < 3; ++k)  // a picture's rows lie apart
      for (size_t row = 0, of_picture = 0; row < captions_.size(); ++row) {
        of_picture = row > 0 && image_of_[row] == image_of_[row - 1] ? of_picture + 1 : 0;
        if (static_cast<int64_t>(of_picture) == k)
          csv += paths_[static_cast<size_t>(image_of_[row])] + '\t' + captions_[row] + '\n';
      }
    folder_.write("data.tsv", csv);
    write_tar(folder_, "data.tar", members);
  }

  RetrievalPlaces places() const {
    return retrieval_places(features_of(paths_), text_features(model_.clip, tokenizer_, captions_),
                            image_of_);
  }

  Strings paths_, captions_;
  std::vector<int64_t> image_of_;
};

const Strings kTsv = {"--data",  "data.tsv",          "--csv-img-key",
                      "picture", "--csv-caption-key", "caption"};

TEST_F(EvaluateRetrieval, RecallsAreTheLibrarysForEveryKindOfData) {
  const RetrievalPlaces expected = places();
  const json shown = figures("retrieval", kTsv);
  EXPECT_EQ(shown["pictures"], kPictures);
  EXPECT_EQ(shown["captions"], captions_.size());
  EXPECT_EQ(shown["left_out"], 0);
  for (const int64_t k : {1, 5, 10}) {
    const std::string name = concat("recall@", k);
    EXPECT_EQ(shown["caption_of_picture"][name], recall_at(k, expected.of_text).value());
    EXPECT_EQ(shown["picture_of_caption"][name], recall_at(k, expected.of_image).value());
  }
  EXPECT_GT(shown["caption_of_picture"]["recall@10"], shown["caption_of_picture"]["recall@1"]);
  for (const char* data : {"data.tar", "data"}) {
    json other = figures("retrieval", {"--data", data, "--batch-size", "5", "--workers", "0"});
    other["data"] = shown["data"];
    EXPECT_EQ(other, shown) << data;
  }
}

TEST_F(EvaluateRetrieval, TheReportOfTrainingCountsTheSameWay) {
  const auto dataset = open_dataset(folder_.path("data.tar"), {});
  const Retrieval report = evaluate_retrieval(model_.clip, tokenizer_, *dataset);
  const RetrievalPlaces expected = places();
  EXPECT_EQ(report.text_of_image.tried, kPictures);
  EXPECT_EQ(report.image_of_text.tried, std::ssize(captions_));
  EXPECT_EQ(report.text_of_image.correct, recall_at(1, expected.of_text).correct);
  EXPECT_EQ(report.image_of_text.correct, recall_at(1, expected.of_image).correct);
}

TEST_F(EvaluateRetrieval, PrintsATable) {
  const AppResult result = evaluate("retrieval", kTsv);
  EXPECT_EQ(result.err, "");
  const Strings lines = lines_of(result.out);
  ASSERT_EQ(lines.size(), 5u) << result.out;
  EXPECT_EQ(lines[1], concat("31 pictures and ", captions_.size(), " captions"));
  const auto column = [&](size_t line, size_t end) {
    return std::stod(lines[line].substr(end - 9, 9));
  };
  const RetrievalPlaces expected = places();
  for (const auto& [k, end] : {std::pair{1, lines[2].find("1 ") + 1},
                               {5, lines[2].find("5 ") + 1},
                               {10, lines[2].size()}}) {
    EXPECT_NEAR(column(3, end), 100 * recall_at(k, expected.of_text).value(), 0.0051) << k;
    EXPECT_NEAR(column(4, end), 100 * recall_at(k, expected.of_image).value(), 0.0051) << k;
  }
}

TEST_F(EvaluateRetrieval, BrokenPicturesAreLeftOutWithTheirCaptions) {
  const json before = figures("retrieval", kTsv);
  folder_.write("bad.png", "no picture");
  const std::string rows = file_bytes(folder_.path("data.tsv"));
  const size_t header = rows.find('\n') + 1;
  folder_.write("data.tsv", rows.substr(0, header) + "bad.png\tone\nmissing.png\ttwo\n" +
                                rows.substr(header) + "bad.png\tthree\n");
  json shown = figures("retrieval", kTsv);
  EXPECT_EQ(shown["left_out"], 2);
  const AppResult result = evaluate("retrieval", kTsv);
  EXPECT_EQ(lines_of(result.err).size(), 2u) << result.err;
  expect_contains(result.err, "bad.png");
  expect_contains(result.err, "missing.png");
  expect_contains(result.out, "captions (2 left out)");
  shown["left_out"] = 0;
  EXPECT_EQ(shown, before);
}

TEST_F(EvaluateRetrieval, WrongRequestsAreRefusedWithASentenceAndLeaveNoFile) {
  const auto refuses = [&](const Strings& own, int status, const Strings& parts) {
    expect_refused(evaluate("retrieval", own), "evaluate", status, parts);
  };
  refuses({}, 2, {"--data"});
  refuses({"--data", "none.csv", "--json", "f.json"}, 1, {"none.csv"});
  refuses({"--data", "data.tsv", "--json", "f.json"}, 1, {"filepath", "'picture', 'caption'"});
  refuses({"--data", "data", "--json", "none/f.json"}, 1, {"none/f.json"});
  refuses({"--data", "data", "--batch-size", "0"}, 2, {"--batch-size must be at least 1, got 0"});
  refuses({"--data", "data", "--device", "tpu"}, 2, {"--device"});
  folder_.write("bad.csv", "filepath,title\nnone.png,one\n");
  const AppResult all_bad = evaluate("retrieval", {"--data", "bad.csv", "--json", "f.json"});
  EXPECT_EQ(all_bad.status, 1);
  EXPECT_EQ(lines_of(all_bad.err).back(), "evaluate: none of the 1 pictures can be read");
  EXPECT_FALSE(fs::exists(folder_.path("f.json")));
  EXPECT_FALSE(holds_temporaries(folder_.path()));
  expect_refused(run_app("evaluate", {"retrieval", "--data", "data"}, folder_), "evaluate", 2,
                 {"--checkpoint MODEL is needed"});
}

/// Class folders train/ and test/ of noise whose colours lean to the class's, more or less.
class EvaluateLinearProbe : public EvaluateApp {
 protected:
  static constexpr int64_t kClasses = 3, kTrain = 20, kTest = 12;

  EvaluateLinearProbe() {
    write("train", kTrain, 0);
    write("test", kTest, 1000);
  }

  void write(const std::string& name, int64_t count, uint64_t seed) const {
    for (int64_t c = 0; c < kClasses; ++c)
      for (int64_t i = 0; i < count; ++i) {
        const auto number = static_cast<uint64_t>(c * count + i);
        Image image = noise_picture(20, 20, seed + number);
        const int64_t lean = Random(seed, number).below(60);
        for (size_t p = static_cast<size_t>(c); p < image.pixels.size(); p += 3)
          image.pixels[p] = static_cast<uint8_t>(std::min<int64_t>(255, image.pixels[p] + lean));
        save_png(image, folder_.path(concat(name, "/class_", c, '/', sample_name(i), ".png")));
      }
  }

  static Strings paths_of(const std::string& name, int64_t count) {
    Strings paths;
    for (int64_t c = 0; c < kClasses; ++c)
      for (int64_t i = 0; i < count; ++i)
        paths.push_back(concat(name, "/class_", c, '/', sample_name(i), ".png"));
    return paths;
  }

  static std::vector<int64_t> labels_of(int64_t count) {
    std::vector<int64_t> labels;
    for (int64_t i = 0; i < kClasses * count; ++i) labels.push_back(i / count);
    return labels;
  }

  /// In the batches that the program makes, so that they are the same bits.
  Tensor probe_features(const Strings& paths, bool projected = false) const {
    const auto load = [&](int64_t i) {
      return load_image(folder_.path(paths[static_cast<size_t>(i)]));
    };
    const FeatureForm form = projected ? FeatureForm::kProjected : FeatureForm::kBeforeProjection;
    return picture_features(model_.clip, std::ssize(paths), load,
                            {.batch_size = 32, .workers = 0, .form = form})
        .rows;
  }

  /// The share of the rows whose label the probe ranks first.
  static double accuracy(const LogisticFit& fit, const Tensor& features,
                         const std::vector<int64_t>& labels) {
    Proportion right;
    const auto ranked = fit.classifier.ranked(features, 1);
    for (size_t i = 0; i < labels.size(); ++i) right.count(ranked[i][0] == labels[i]);
    return right.value();
  }
};

const Strings kProbe = {"--train", "train", "--test", "test"};

TEST_F(EvaluateLinearProbe, AFixedRegulariserGivesTheAccuracyOfTheLibrarysRegression) {
  for (const bool projected : {false, true}) {
    const Strings form = projected ? Strings{"--projected"} : Strings{};
    const LogisticFit fit =
        fit_logistic_regression(probe_features(paths_of("train", kTrain), projected),
                                labels_of(kTrain), kClasses, {.lambda = 0.5});
    const double expected =
        accuracy(fit, probe_features(paths_of("test", kTest), projected), labels_of(kTest));
    json shown = figures("linear_probe", with(with(kProbe, form), {"--lambda", "0.5"}));
    EXPECT_EQ(shown["top1"], expected);
    EXPECT_EQ(shown["features"], projected ? 16 : 32);
    EXPECT_EQ(shown["training_pictures"], kClasses * kTrain);
    EXPECT_EQ(shown["validation_pictures"], 0);
    EXPECT_EQ(shown["pictures"], kClasses * kTest);
    EXPECT_EQ(shown["C"], 2);
    EXPECT_EQ(shown["top5"], 1);
    EXPECT_EQ(shown["sweep"], json::array());
    EXPECT_GT(expected, 0.4);  // the colours' lean is found, and not always
    EXPECT_LT(expected, 1);
    EXPECT_EQ(figures("linear_probe", with(with(kProbe, form), {"--c", "2"})), shown);
  }
}

TEST_F(EvaluateLinearProbe, TheSweepChoosesByTheValidationPicturesAndLearnsFromAll) {
  write("validation", 5, 2000);
  const json shown = figures("linear_probe", with(kProbe, {"--validation", "validation"}));
  EXPECT_EQ(shown["training_pictures"], kClasses * kTrain);
  EXPECT_EQ(shown["validation_pictures"], kClasses * 5);
  const Tensor all = probe_features(with(paths_of("train", kTrain), paths_of("validation", 5)));
  const Tensor train = all.slice(0, kClasses * kTrain);
  const Tensor validation = all.slice(kClasses * kTrain, all.size(0));
  double best = 0, chosen = 0;
  ASSERT_GE(shown["sweep"].size(), 9u);
  for (const json& step : shown["sweep"]) {
    const double lambda = step["lambda"];
    const LogisticFit fit =
        fit_logistic_regression(train, labels_of(kTrain), kClasses, {.lambda = lambda});
    EXPECT_EQ(step["top1"], accuracy(fit, validation, labels_of(5))) << step;
    if (step["top1"] >= best) {
      best = step["top1"];
      chosen = lambda;
    }
  }
  EXPECT_EQ(shown["lambda"], chosen);
  std::vector<int64_t> labels = labels_of(kTrain), more = labels_of(5);
  labels.insert(labels.end(), more.begin(), more.end());
  const LogisticFit fit = fit_logistic_regression(all, labels, kClasses, {.lambda = chosen});
  EXPECT_EQ(shown["top1"],
            accuracy(fit, probe_features(paths_of("test", kTest)), labels_of(kTest)));
}

TEST_F(EvaluateLinearProbe, WithoutValidationPicturesAFifthOfEachClassServesAndRunsAreEqual) {
  const json shown = figures("linear_probe", kProbe);
  EXPECT_EQ(shown["training_pictures"], kClasses * 16);
  EXPECT_EQ(shown["validation_pictures"], kClasses * 4);
  EXPECT_EQ(figures("linear_probe", with(kProbe, {"--workers", "0"})), shown);
  const AppResult result = evaluate("linear_probe", with(kProbe, {"--per-class"}));
  EXPECT_EQ(result.err, "");
  expect_contains(result.out, "48 pictures of 3 classes, 12 for validation");
  expect_contains(result.out, "32, before the projection");
  expect_contains(result.out, "Each class, the worst first");
  expect_contains(result.out, "class_2");
}

TEST_F(EvaluateLinearProbe, ClassesAreMatchedByNameAndOnesWithoutPicturesAreLeftOut) {
  // Numbered classes with a gap; the test has two of them, in another order.
  std::string train = "filepath,label\n", test = "filepath,label\n";
  for (const std::string& path : paths_of("train", kTrain))
    train += concat(path, ',', path[12] == '2' ? 9 : path[12] - '0', '\n');
  for (const std::string& path : paths_of("test", kTest))
    if (path[11] != '1') test += concat(path, ',', path[11] == '2' ? 9 : 0, '\n');
  folder_.write("train.csv", train);
  folder_.write("test.csv", test);
  const json folders = figures("linear_probe", with(kProbe, {"--c", "1"}));
  const json shown =
      figures("linear_probe", {"--train", "train.csv", "--test", "test.csv", "--c", "1"});
  EXPECT_EQ(shown.at("per_class").at("9"), folders.at("per_class").at("class_2"));
  EXPECT_EQ(shown.at("per_class").at("0"), folders.at("per_class").at("class_0"));
  EXPECT_TRUE(shown.at("per_class").at("1").is_null());
  EXPECT_TRUE(shown.at("per_class").at("5").is_null());
}

TEST_F(EvaluateLinearProbe, BrokenPicturesAreLeftOut) {
  const json before = figures("linear_probe", with(kProbe, {"--c", "1"}));
  folder_.write("train/class_0/bad.png", "no picture");
  folder_.write("test/class_1/bad.png", "no picture");
  json shown = figures("linear_probe", with(kProbe, {"--c", "1"}));
  EXPECT_EQ(shown["broken"], 2);
  shown["broken"] = 0;
  EXPECT_EQ(shown, before);
}

TEST_F(EvaluateLinearProbe, WrongRequestsAreRefusedBeforeTheModelIsRead) {
  fs::remove_all(folder_.path("model"));
  const auto refuses = [&](const Strings& own, int status, const Strings& parts) {
    expect_refused(evaluate("linear_probe", own), "evaluate", status, parts);
  };
  refuses({"--train", "train"}, 2, {"--test DATA is needed"});
  refuses({"--test", "test"}, 2, {"--train DATA is needed"});
  refuses({"--train", "train", "--test", "train"}, 2, {"same pictures", "train"});
  refuses(with(kProbe, {"--c", "1", "--lambda", "1"}), 2, {"--c and --lambda"});
  refuses(with(kProbe, {"--c", "0"}), 2, {"--c must be above 0, got 0"});
  refuses(with(kProbe, {"--lambda", "nan"}), 2, {"--lambda must be above 0"});
  refuses(with(kProbe, {"--max-iterations", "0"}), 2, {"--max-iterations"});
  refuses({"--train", "train", "--test", "none"}, 1, {"none"});
  save_png(noise_picture(20, 20, 1), folder_.path("more/zebra/0.png"));
  refuses({"--train", "train", "--test", "more"}, 1, {"--test", "'zebra'", "train"});
  refuses(with(kProbe, {"--validation", "more"}), 1, {"--validation", "'zebra'"});
  refuses(with(kProbe, {"--validation", "test"}), 2, {"--validation and --test", "same pictures"});
  save_png(noise_picture(20, 20, 2), folder_.path("more/ass/0.png"));
  save_png(noise_picture(20, 20, 3), folder_.path("less/ass/0.png"));
  refuses({"--train", "more", "--test", "less"}, 1, {"no class of two pictures", "--validation"});
  refuses({"--train", "less", "--test", "less"}, 2, {"same pictures"});
  save_png(noise_picture(20, 20, 4), folder_.path("one/ass/0.png"));
  save_png(noise_picture(20, 20, 5), folder_.path("one/ass/1.png"));
  refuses({"--train", "one", "--test", "less"}, 1, {"two classes or more", "'ass'"});
  refuses(kProbe, 1, {"model"});  // now it is the model's turn
}

TEST_F(EvaluateApp, TheFirstWordSaysWhat) {
  expect_refused(run_app("evaluate", {}, folder_), "evaluate", 2, {"first word", "retrieval"});
  expect_refused(run_app("evaluate", {"recall"}, folder_), "evaluate", 2, {"'recall'"});
  const AppResult help = run_app("evaluate", {"--help"}, folder_);
  EXPECT_EQ(help.status, 0);
  expect_contains(help.out, "retrieval");
  const AppResult words = run_app("evaluate", {"retrieval", "--help"}, folder_);
  EXPECT_EQ(words.status, 0);
  for (const char* part : {"./apps/evaluate retrieval --checkpoint", "--csv-caption-key"})
    expect_contains(words.out, part);
}

TEST_F(EvaluateRetrieval, TheFiguresAreNotWrittenOverAnInput) {
  const std::string model = file_bytes(folder_.path("model/open_clip_model.safetensors"));
  for (const Strings& inputs : {Strings{"data.tsv", "./data.tsv"},
                                {"data.tar", "data.tar"},
                                {"{data,x}.tar", "data.tar"}}) {
    const std::string before = file_bytes(folder_.path(inputs[1]));
    expect_refused(evaluate("retrieval", {"--data", inputs[0], "--csv-img-key", "picture",
                                          "--csv-caption-key", "caption", "--json", inputs[1]}),
                   "evaluate", 2, {"--json would replace its own input", inputs[1]});
    EXPECT_EQ(file_bytes(folder_.path(inputs[1])), before);
  }
  const std::string weights = "model/open_clip_model.safetensors";
  expect_refused(
      run_app("evaluate",
              {"retrieval", "--checkpoint", weights, "--data", "data", "--json", weights}, folder_),
      "evaluate", 2, {"--json would replace its own input", weights});
  EXPECT_EQ(file_bytes(folder_.path(weights)), model);
}

TEST_F(EvaluateLinearProbe, TheSamePicturesUnderAnotherNameAreRefused) {
  fs::create_directory_symlink("train", folder_.path("link"));
  for (const char* train : {"train", "./train/", "test/../train", "link"}) {
    expect_refused(evaluate("linear_probe", with(kProbe, {"--validation", train})), "evaluate", 2,
                   {"--validation and --train are the same pictures"});
    expect_refused(evaluate("linear_probe", {"--train", "train", "--test", train}), "evaluate", 2,
                   {"--train and --test are the same pictures"});
  }
}

TEST_F(EvaluateLinearProbe, ARegulariserThatCannotServeIsRefused) {
  const auto refuses = [&](const Strings& own, const Strings& parts) {
    expect_refused(evaluate("linear_probe", with(kProbe, own)), "evaluate", 2, parts);
  };
  refuses({"--c", "1e-310"}, {"--c and its inverse must be finite"});
  refuses({"--lambda", "inf"}, {"--lambda and its inverse must be finite, got inf"});
  refuses({"--lambda", "1", "--validation", "test"}, {"--validation chooses lambda", "--lambda"});
}

TEST_F(EvaluateLinearProbe, SaysWhereAFitWasStopped) {
  const Strings fixed = with(kProbe, {"--lambda", "0.5"});
  const std::string stopped = evaluate("linear_probe", with(fixed, {"--max-iterations", "2"})).out;
  expect_contains(stopped, "2 iterations on 60 pictures, not converged\n");
  expect_contains(evaluate("linear_probe", fixed).out, " iterations on 60 pictures\n");
}

TEST_F(EvaluateLinearProbe, TheFeaturesOfAResNetAreThoseOfItsAttentionPool) {
  ClipConfig resnet = config_from_json(kSmallResNet, "test");
  resnet.text.vocab_size = config().text.vocab_size;
  ClipModel model(resnet, cpu_backend());
  initialize(model.parameters, resnet, 5);
  save_checkpoint(folder_.path("model"), resnet, model.parameters, tokenizer_, nullptr);
  expect_contains(evaluate("linear_probe", with(kProbe, {"--c", "1"})).out,
                  ", of the attention pool\n");
}

}  // namespace
}  // namespace clip
