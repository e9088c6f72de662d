// apps/zero_shot from outside: what it prints is what the library computes step by step.
#include "tests/zero_shot_app_test.h"

#include <filesystem>
#include <fstream>

namespace clip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

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
