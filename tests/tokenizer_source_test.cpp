// Where a vocabulary may come from besides our own tokenizer.json.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/tokenizer.h"
#include "tests/error_message.h"
#include "tests/reference_path.h"
#include "tests/scratch_folder.h"

namespace clip {
namespace {

const std::vector<Tokenizer::Merge> kMerges{{"a", "b"}, {"ab", "c</w>"}, {"#", "#"}};
constexpr const char* kMergesText = "#version: 0.2\na b\nab c</w>\n# #\n";

/// vocab.json, as Hugging Face writes it beside merges.txt.
nlohmann::json vocabulary() {
  const Tokenizer tokenizer(kMerges);
  nlohmann::json ids;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) ids[tokenizer.spelling(id)] = id;
  return ids;
}

std::string error_of_loading(const std::string& path) {
  return error_message([&] { Tokenizer::load(path); });
}

TEST(TokenizerSource, VocabJsonWithMergesBesideIt) {
  const ScratchFolder folder;
  folder.write("merges.txt", kMergesText);
  const std::string path = folder.write("vocab.json", vocabulary().dump());
  EXPECT_EQ(Tokenizer::load(path).merges(), kMerges);
  EXPECT_EQ(Tokenizer::load(folder.path()).merges(), kMerges);
}

TEST(TokenizerSource, VocabJsonWithoutMergesIsAnError) {
  const ScratchFolder folder;
  const std::string path = folder.write("vocab.json", vocabulary().dump());
  EXPECT_TRUE(says(error_of_loading(path), path, "merges.txt beside it"));
}

TEST(TokenizerSource, VocabJsonInAnotherOrderIsAnError) {
  const ScratchFolder folder;
  folder.write("merges.txt", kMergesText);
  auto ids = vocabulary();
  std::swap(ids["ab"], ids["abc</w>"]);
  const std::string path = folder.write("vocab.json", ids.dump());
  EXPECT_TRUE(says(error_of_loading(path), path, "\"ab\" with id 512", "found 513"));
  ids["more"] = ids.size();
  folder.write("vocab.json", ids.dump());
  EXPECT_TRUE(says(error_of_loading(folder.path()), path, "expected 517 tokens", "found 518"));
}

TEST(TokenizerSource, DamagedMergesBesideVocabJsonAreNamed) {
  const ScratchFolder folder;
  const std::string merges = folder.write("merges.txt", "a\n");
  folder.write("vocab.json", vocabulary().dump());
  EXPECT_TRUE(says(error_of_loading(folder.path()), merges, "line 1", "two symbols"));
}

TEST(TokenizerSource, AFileIsToldByItsContentNotItsName) {
  const ScratchFolder folder;
  const Tokenizer tokenizer(kMerges);
  EXPECT_EQ(Tokenizer::load(folder.write("vocabulary.txt", tokenizer.to_json())).merges(), kMerges);
  EXPECT_EQ(Tokenizer::load(folder.write("vocabulary", kMergesText)).merges(), kMerges);
}

TEST(TokenizerSource, AFolderWithItsTokenizerJsonFirst) {
  const ScratchFolder folder;
  folder.write("merges.txt", "x y\n");
  EXPECT_EQ(Tokenizer::load(folder.path()).merges(), (std::vector<Tokenizer::Merge>{{"x", "y"}}));
  folder.write("tokenizer.json", Tokenizer(kMerges).to_json());
  EXPECT_EQ(Tokenizer::load(folder.path()).merges(), kMerges);
}

TEST(TokenizerSource, OtherMergesThanClipsAreNotTakenForThem) {
  const std::string path = reference_path("tokenizer_merges.txt");
  EXPECT_TRUE(says(error_message([&] { clip_tokenizer(path); }), path, "CLIP's 48894 merges",
                   "found 2000"));
}

TEST(TokenizerSource, ClipsOwnVocabularyOrAnErrorThatSaysHowToGetIt) {
  if (!find_clip_merges()) {
    EXPECT_TRUE(says(error_message([] { clip_tokenizer(); }), "make deps", "--bpe"));
    GTEST_SKIP() << "CLIP's merges are not in data/; make deps fetches them";
  }
  const Tokenizer tokenizer = clip_tokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 49408);
  // open_clip.tokenize(["a diagram"]), of open_clip_torch 3.3.0
  EXPECT_EQ(tokenizer.tokenize("a diagram", 77), (std::vector<int32_t>{49406, 320, 22697, 49407}));
}

}  // namespace
}  // namespace clip
