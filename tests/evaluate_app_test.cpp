// apps/evaluate from outside: its figures are what the library computes step by step.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "models/checkpoint.h"
#include "models/clip.h"
#include "models/features.h"
#include "models/preprocess.h"
#include "models/retrieval.h"
#include "tests/app_process.h"
#include "tests/app_samples.h"

namespace clip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// A model of random weights as a checkpoint.
class EvaluateApp : public testing::Test {
 protected:
  EvaluateApp()
      : tokenizer_(Tokenizer::learn({"a photo of a cat", "a drawing of a house by the sea"}, 530)),
        model_(config(), cpu_backend()) {
    initialize(model_.parameters, config(), 5);
    save_checkpoint(folder_.path("model"), config(), model_.parameters, tokenizer_, nullptr);
  }

  static ClipConfig config() {
    ClipConfig config = config_from_json(kSmallModel, "test");
    config.text.vocab_size = 530;
    return config;
  }

  AppResult evaluate(const std::string& word, const Strings& own) const {
    Strings all = {word, "--checkpoint", "model", "--device", "cpu"};
    all.insert(all.end(), own.begin(), own.end());
    return run_app("evaluate", all, folder_);
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

  ScratchFolder folder_;
  Tokenizer tokenizer_;
  ClipModel model_;
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

}  // namespace
}  // namespace clip
