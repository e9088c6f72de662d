// Models with CLIP's 49,408 embeddings and no tokenizer beside them take CLIP's own.
#include <gtest/gtest.h>

#include <filesystem>

#include "models/checkpoint.h"
#include "models/clip.h"
#include "tests/app_process.h"
#include "tests/app_samples.h"

namespace clip {
namespace {

constexpr size_t kClipMerges = 49408 - 514;

/// As many merges as CLIP's file has, in its form: pairs of letters, then pairs with a third.
std::string made_up_merges() {
  std::string text = "\"bpe_simple_vocab_16e6.txt#version: 0.2\n";
  size_t count = 0;
  for (const bool third : {false, true})
    for (char a = '!'; a <= '~'; ++a)
      for (char b = '!'; b <= '~'; ++b)
        for (char c = '!'; c <= (third ? '~' : '!'); ++c) {
          if (count++ == kClipMerges) return text;
          text += third ? concat(a, b, ' ', c, '\n') : concat(a, ' ', b, '\n');
        }
  return text;
}

class ClipVocabularyApp : public testing::Test {
 protected:
  ClipVocabularyApp() {
    ClipConfig config = config_from_json(kSmallModel, "test");
    config.text.vocab_size = 49408;
    ClipModel model(config, cpu_backend());
    initialize(model.parameters, config, 5);
    save_checkpoint(folder_.path("m"), config, model.parameters, Tokenizer::learn({"a cat"}, 520),
                    nullptr);
    std::filesystem::remove(folder_.path("m/tokenizer.json"));
    save_png(noise_picture(24, 20, 1), folder_.path("a.png"));
  }

  AppResult zero_shot(const Strings& own) const {
    const Strings all = with(
        {"--checkpoint", "m", "--device", "cpu", "--images", "a.png", "--labels", "cat,dog"}, own);
    return run_app("zero_shot", all, folder_);
  }

  AppResult train(const Strings& own) const {
    const Strings all = with({"--pretrained", "m", "--train-data", "pairs.csv", "--steps", "0",
                              "--batch-size", "8", "--device", "cpu", "--name", "a"},
                             own);
    return run_app("train", all, folder_);
  }

  ScratchFolder folder_;
};

TEST_F(ClipVocabularyApp, ZeroShotTakesClipsOwnFromDataOrFromTheOption) {
  folder_.write("merges.txt", made_up_merges());
  const AppResult named = zero_shot({"--bpe", "merges.txt"});
  EXPECT_EQ(named.status, 0) << named.err;
  EXPECT_EQ(zero_shot({"--tokenizer", "merges.txt"}).out, named.out);
  folder_.write("data/bpe_simple_vocab_16e6.txt.gz", made_up_merges());
  const AppResult found = zero_shot({});
  EXPECT_EQ(found.status, 0) << found.err;
  EXPECT_EQ(found.out, named.out);
  expect_refused(zero_shot({"--bpe", "merges.txt", "--tokenizer", "merges.txt"}), "zero_shot", 2,
                 {"--bpe", "--tokenizer"});
  folder_.write("few.txt", "a b\n");
  expect_refused(zero_shot({"--bpe", "few.txt"}), "zero_shot", 1, {"few.txt", "48894"});
}

TEST_F(ClipVocabularyApp, TrainingKeepsIt) {
  write_pairs(folder_, "pairs", 8);
  folder_.write("data/bpe_simple_vocab_16e6.txt.gz", made_up_merges());
  const AppResult result = train({});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(load_tokenizer(folder_.path("runs/a/checkpoints/step_0")).vocab_size(), 49408);
}

TEST_F(ClipVocabularyApp, ConvertWritesIt) {
  folder_.write("data/bpe_simple_vocab_16e6.txt.gz", made_up_merges());
  const AppResult result = run_app("convert", {"m", "--to", "huggingface", "--out", "b"}, folder_);
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(load_tokenizer(folder_.path("b")).vocab_size(), 49408);
}

TEST_F(ClipVocabularyApp, WhereItIsNotFoundTheErrorNamesBothWaysOut) {
  if (find_clip_merges()) GTEST_SKIP() << "CLIP's merges are in data/";
  write_pairs(folder_, "pairs", 8);
  const Strings parts = {"no tokenizer", "make deps", "--bpe", "--tokenizer"};
  expect_refused(zero_shot({}), "zero_shot", 1, parts);
  expect_refused(train({}), "train", 1, parts);
}

}  // namespace
}  // namespace clip
