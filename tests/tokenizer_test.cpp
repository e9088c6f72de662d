#include "models/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "models/tokenizer_text.h"
#include "tests/error_message.h"
#include "tests/reference_path.h"
#include "tests/scratch_folder.h"

namespace clip {
namespace {

using Ids = std::vector<int32_t>;

/// The first 2,000 merges of CLIP's vocabulary.
Tokenizer reference_tokenizer() { return Tokenizer::load(reference_path("tokenizer_merges.txt")); }

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> captions() {
  std::vector<std::string> all;
  for (const char* animal : {"cat", "dog", "horse", "elephant", "hippopotamus"}) {
    for (const char* colour : {"red", "green", "yellow", "turquoise"}) {
      for (const char* place : {"left of the house", "on the grass", "under a tree"}) {
        all.push_back(std::string("A photo of a ") + colour + " " + animal + " " + place + ".");
      }
    }
  }
  return all;
}

Tokenizer learned() { return Tokenizer::learn(captions(), 560); }

// --- Ids ----------------------------------------------------------------------------------------

TEST(Tokenizer, GivesTheIdsOfTheReferenceTokenizer) {
  const Tokenizer tokenizer = reference_tokenizer();
  const auto cases = nlohmann::json::parse(read(reference_path("tokenizer_ids.json")));
  ASSERT_GT(cases.size(), 300u);
  for (const auto& each : cases) {
    const std::string text = each["text"];
    EXPECT_EQ(tokenizer.encode(text), each["ids"].get<Ids>()) << text;
  }
}

TEST(Tokenizer, OrdersIdsAsClipDoes) {
  const Tokenizer tokenizer = reference_tokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 512 + 2000 + 2);
  EXPECT_EQ(tokenizer.spelling(0), "!");
  EXPECT_EQ(tokenizer.spelling(188), "\u0100");  // byte 0, the first that does not print
  EXPECT_EQ(tokenizer.spelling(256), "!</w>");
  EXPECT_EQ(tokenizer.spelling(512), "in");
  EXPECT_EQ(tokenizer.start_of_text(), 2512);
  EXPECT_EQ(tokenizer.end_of_text(), 2513);
  EXPECT_EQ(tokenizer.spelling(2513), "<|endoftext|>");
}

TEST(Tokenizer, MergesTheEarliestRuleFirst) {
  // Longest match or left to right would find "ab" in "abc"; the earlier rule takes "bc".
  const Tokenizer tokenizer({{"b", "c</w>"}, {"a", "b"}});
  EXPECT_EQ(tokenizer.encode("abc"), (Ids{'a' - '!', 512}));
  EXPECT_EQ(tokenizer.encode("aba"), (Ids{513, 256 + 'a' - '!'}));
}

TEST(Tokenizer, MergesEqualPairsFromLeftToRight) {
  const Tokenizer tokenizer({{"a", "a"}, {"aa", "a</w>"}});
  EXPECT_EQ(tokenizer.encode("aaa"), (Ids{513}));
  EXPECT_EQ(tokenizer.encode("aaaa"), (Ids{512, 'a' - '!', 256 + 'a' - '!'}));
}

TEST(Tokenizer, EmptyCaptionIsStartAndEnd) {
  const Tokenizer tokenizer = reference_tokenizer();
  for (const char* text : {"", " \t\n ", "\u00a0\u3000", "&nbsp;"}) {
    EXPECT_EQ(tokenizer.encode(text), Ids{}) << text;
    EXPECT_EQ(tokenizer.tokenize(text, 77), (Ids{2512, 2513})) << text;
  }
}

TEST(Tokenizer, TruncationKeepsEndOfText) {
  const Tokenizer tokenizer = reference_tokenizer();
  const Ids ids = tokenizer.encode("a photo of a cat on a mat");
  for (int64_t context_length : {2, 3, 5, 9, 10, 77}) {
    Ids expected = ids;
    expected.resize(std::min(ids.size(), static_cast<size_t>(context_length - 2)));
    expected.insert(expected.begin(), 2512);
    expected.push_back(2513);
    EXPECT_EQ(tokenizer.tokenize("a photo of a cat on a mat", context_length), expected);
  }
}

TEST(Tokenizer, TruncationCutsInsideAWord) {
  const Tokenizer tokenizer = reference_tokenizer();
  const Ids word = tokenizer.encode("xyzzyxyzzy");
  ASSERT_GT(word.size(), 2u);
  EXPECT_EQ(tokenizer.tokenize("xyzzyxyzzy", 4), (Ids{2512, word[0], word[1], 2513}));
}

TEST(Tokenizer, ContextLengthWithoutRoomForStartAndEndIsAnError) {
  const Tokenizer tokenizer = reference_tokenizer();
  for (const int64_t length : {int64_t{1}, int64_t{0}, int64_t{-5}}) {
    EXPECT_TRUE(says(error_message([&] { tokenizer.tokenize("a cat", length); }),
                     "context length must be at least 2", "got " + std::to_string(length)));
  }
}

TEST(Tokenizer, TakesACaptionOfTenThousandCharacters) {
  const Tokenizer tokenizer = reference_tokenizer();
  std::string words;
  while (words.size() < 10000) words += "photo ";
  EXPECT_EQ(tokenizer.encode(words), Ids(words.size() / 6, tokenizer.encode("photo")[0]));
  EXPECT_EQ(tokenizer.tokenize(words, 77).size(), 77u);

  const std::string letters(10000, 'h');
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(letters)), letters);
}

TEST(Tokenizer, BytesThatAreNoUtf8BecomeReplacementCharacters) {
  const Tokenizer tokenizer = reference_tokenizer();
  EXPECT_EQ(tokenizer.encode("a\xff\x62"), tokenizer.encode("a\ufffd\x62"));
  EXPECT_EQ(tokenizer.encode("caf\xc3"), tokenizer.encode("caf\ufffd"));          // cut short
  EXPECT_EQ(tokenizer.encode("\xc0\xaf"), tokenizer.encode("\ufffd\ufffd"));      // overlong
  EXPECT_EQ(tokenizer.encode("\xed\xa0\x80x").back(), tokenizer.encode("x")[0]);  // surrogate
}

TEST(Tokenizer, TakesAnyBytes) {
  const Tokenizer tokenizer = reference_tokenizer();
  uint32_t state = 1;
  for (int text = 0; text < 2000; ++text) {
    std::string bytes;
    for (int i = 0; i < 40; ++i) {
      state = state * 1664525u + 1013904223u;
      bytes.push_back(static_cast<char>(state >> 24));
    }
    EXPECT_NO_THROW(nlohmann::json(clean_text(bytes)).dump());  // throws at bytes that are no UTF-8
    for (const int32_t id : tokenizer.encode(bytes)) ASSERT_LT(id, tokenizer.vocab_size());
  }
}

TEST(Tokenizer, GivesEveryThreadTheSameIds) {
  const Tokenizer tokenizer = reference_tokenizer();
  const std::string text = "Tom &amp; Jerry’s café: 3 photos of ΣΑΣ";
  const Ids expected = tokenizer.encode(text);
  std::vector<int> equal(4);
  std::vector<std::thread> threads;
  for (int& count : equal) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) count += tokenizer.encode(text) == expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(equal, std::vector<int>(4, 200));
}

// --- Text ---------------------------------------------------------------------------------------

TEST(Tokenizer, CleansTextAsClipDoes) {
  EXPECT_EQ(clean_text("  A\tPhoto \n of "), "a photo of");
  EXPECT_EQ(clean_text("Tom &amp;amp; Jerry"), "tom & jerry");
  EXPECT_EQ(clean_text("&lt;caf&eacute&gt; &notit; &nosuch; &#xE9; &#128;"),
            "<café> ¬it; &nosuch; é €");
  EXPECT_EQ(clean_text("“Don’t” ﬁne ＡＢＣ cafe\u0301"), "\"don't\" fine abc café");
  EXPECT_EQ(clean_text("ΟΔΟΣ İ"), "οδος i\u0307");
  EXPECT_EQ(clean_text("schÃ¶n â€“ itâ€™s caf√©"), "schön – it's caf√©");
  EXPECT_EQ(clean_text("&CounterClockwiseContourIntegral; &notinva; &ngE; &gtcc"),
            "∳ ∉ ≧\u0338 >cc");
  EXPECT_EQ(clean_text("\x1b[31mred\x1b[0m\a \ufeff!"), "red !");
}

TEST(Tokenizer, DecodesWhatItEncodes) {
  for (const Tokenizer& tokenizer : {reference_tokenizer(), learned()}) {
    for (const char* text : {"", "a", "a photo of a cat on the grass", "naïve café", "犬 と 猫",
                             "🐶 dog", "x 's 1 2 3 !?"}) {
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
      EXPECT_EQ(tokenizer.decode(tokenizer.tokenize(text, 77)), text);
    }
  }
}

TEST(Tokenizer, DecodesAnIncompleteCharacterToAReplacementCharacter) {
  const Tokenizer tokenizer(std::vector<Tokenizer::Merge>{});
  Ids ids = tokenizer.encode("é");
  ids.pop_back();
  EXPECT_EQ(tokenizer.decode(ids), "\ufffd");
}

TEST(Tokenizer, DecodingAnIdOutsideTheVocabularyIsAnError) {
  const Tokenizer tokenizer = reference_tokenizer();
  EXPECT_TRUE(says(error_message([&] { tokenizer.decode({2514}); }), "0 to 2513", "got 2514"));
  EXPECT_TRUE(says(error_message([&] { tokenizer.decode({-1}); }), "got -1"));
}

// --- Learning -----------------------------------------------------------------------------------

TEST(TokenizerLearn, MergesTheMostFrequentPairFirst) {
  // Words: "ab" twice, "cb" three times.
  const Tokenizer tokenizer = Tokenizer::learn({"ab cb", "ab cb", "cb"}, 1000);
  EXPECT_EQ(tokenizer.merges(), (std::vector<Tokenizer::Merge>{{"c", "b</w>"}, {"a", "b</w>"}}));
}

TEST(TokenizerLearn, BreaksTiesBySmallerStrings) {
  const Tokenizer tokenizer = Tokenizer::learn({"zy by bx", "bx by zy"}, 1000);
  EXPECT_EQ(tokenizer.merges(),
            (std::vector<Tokenizer::Merge>{{"b", "x</w>"}, {"b", "y</w>"}, {"z", "y</w>"}}));
}

TEST(TokenizerLearn, CountsAgainAfterEveryMerge) {
  // "ab" takes the b of every "bc", so "bc" never becomes a symbol although it occurs four times.
  const Tokenizer tokenizer =
      Tokenizer::learn({"abcx abcy", "abcx abcy", "ab ab ab", "abz abz"}, 1000);
  for (const auto& [left, right] : tokenizer.merges()) EXPECT_NE(left + right, "bc");
  EXPECT_EQ(tokenizer.merges()[0], (Tokenizer::Merge{"a", "b"}));
  EXPECT_EQ(tokenizer.merges()[1], (Tokenizer::Merge{"ab", "c"}));
}

TEST(TokenizerLearn, DoesNotDependOnTheOrderOfCaptions) {
  std::vector<std::string> reversed = captions();
  std::reverse(reversed.begin(), reversed.end());
  EXPECT_EQ(learned().merges(), Tokenizer::learn(reversed, 560).merges());
}

TEST(TokenizerLearn, ShortensItsCaptions) {
  const Tokenizer tokenizer = learned();
  EXPECT_EQ(tokenizer.vocab_size(), 560);
  size_t bytes = 0;
  size_t ids = 0;
  for (const std::string& caption : captions()) {
    bytes += caption.size();
    ids += tokenizer.encode(caption).size();
  }
  // 46 merges are enough for the words that every caption has; none at all would give 1.2.
  EXPECT_LT(3 * ids, bytes);
}

TEST(TokenizerLearn, StopsWhenNoPairOccursTwice) {
  EXPECT_EQ(Tokenizer::learn({"abcdef"}, 1000).vocab_size(), Tokenizer::kSmallestVocabulary);
  EXPECT_EQ(Tokenizer::learn({}, 1000).vocab_size(), Tokenizer::kSmallestVocabulary);
}

TEST(TokenizerLearn, LeavesSpecialTokensOut) {
  const Tokenizer tokenizer = Tokenizer::learn({"<|endoftext|> <|endoftext|>"}, 1000);
  EXPECT_TRUE(tokenizer.merges().empty());
}

TEST(TokenizerLearn, TooSmallAVocabularyIsAnError) {
  EXPECT_EQ(Tokenizer::learn({"aa aa"}, 514).vocab_size(), 514);
  EXPECT_TRUE(says(error_message([] { Tokenizer::learn({"aa aa"}, 513); }),
                   "vocabulary size must be at least 514", "got 513"));
}

TEST(TokenizerLearn, RepetitiveWordsOfAnyLengthAreLearned) {
  const Tokenizer tokenizer =
      Tokenizer::learn({std::string(20000, 'a'), std::string(20000, 'a')}, 540);
  const std::string text(5000, 'a');
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

// --- Files --------------------------------------------------------------------------------------

TEST(TokenizerFile, SavedAndLoadedIsTheSame) {
  const ScratchFolder folder;
  for (const Tokenizer& tokenizer : {reference_tokenizer(), learned(), Tokenizer::learn({}, 600)}) {
    tokenizer.save(folder.path("tokenizer.json"));
    const Tokenizer loaded = Tokenizer::load(folder.path("tokenizer.json"));
    EXPECT_EQ(loaded.merges(), tokenizer.merges());
    EXPECT_EQ(loaded.to_json(), tokenizer.to_json());
    EXPECT_EQ(read(folder.path("tokenizer.json")), tokenizer.to_json());
  }
}

TEST(TokenizerFile, SavesWhatOpenClipPadsWith) {
  const ScratchFolder folder;
  learned().save(folder.path("tokenizer.json"));
  const auto config = nlohmann::json::parse(read(folder.path("tokenizer_config.json")));
  EXPECT_EQ(config["pad_token"], "<|endoftext|>");
  EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
}

TEST(TokenizerFile, ReadsMergesWithCarriageReturnsOrWithoutHeader) {
  const ScratchFolder folder;
  const std::vector<Tokenizer::Merge> merges{{"a", "b"}, {"#", "#"}};
  EXPECT_EQ(Tokenizer::load(folder.write("a.txt", "#version: 0.2\r\na b\r\n# #\r\n")).merges(),
            merges);
  EXPECT_EQ(Tokenizer::load(folder.write("b.txt", "a b\n# #")).merges(), merges);
  EXPECT_EQ(Tokenizer::load(folder.write("c.txt", "a b\n# #\n\n")).merges(), merges);
}

TEST(TokenizerFile, ReadsMergesWrittenAsPairs) {
  const ScratchFolder folder;
  auto root = nlohmann::json::parse(learned().to_json());
  for (auto& merge : root["model"]["merges"]) {
    const std::string rule = merge;
    const size_t space = rule.find(' ');
    merge = {rule.substr(0, space), rule.substr(space + 1)};
  }
  const Tokenizer loaded = Tokenizer::load(folder.write("pairs.json", root.dump()));
  EXPECT_EQ(loaded.merges(), learned().merges());
}

TEST(TokenizerFile, DamagedMergesAreAnErrorThatNamesPathAndLine) {
  const ScratchFolder folder;
  const auto loading = [&](const std::string& bytes) {
    const std::string path = folder.write("merges.txt", bytes);
    const std::string message = error_message([&] { Tokenizer::load(path); });
    EXPECT_EQ(message.find(path), 0u) << message;
    return message;
  };
  EXPECT_TRUE(says(loading(""), "found none"));
  EXPECT_TRUE(says(loading("#version: 0.2\n"), "found none"));
  EXPECT_TRUE(says(loading("#version: 0.2\na b\nc\nd e\n"), "line 3", "two symbols", "\"c\""));
  EXPECT_TRUE(says(loading("a b\n\nd e\n"), "line 2"));
  EXPECT_TRUE(says(loading("a b c\n"), "line 1"));
  EXPECT_TRUE(says(loading("a b\nab cd\n"), "merge 2", "found \"cd\""));
  EXPECT_TRUE(says(loading("a b\na b\n"), "merge 2", "exists already"));
  EXPECT_TRUE(says(loading(std::string("\0\x01\x7f garbage\xff more\n", 18)), "line 1"));
  EXPECT_TRUE(says(loading("\x1f\x8b\x08" + std::string(7, '\0') + "cut short"), "cannot be read"));
}

TEST(TokenizerFile, DamagedJsonIsAnErrorThatNamesThePath) {
  const ScratchFolder folder;
  const std::string whole = learned().to_json();
  const auto loading = [&](const std::string& bytes) {
    const std::string path = folder.write("tokenizer.json", bytes);
    const std::string message = error_message([&] { Tokenizer::load(path); });
    EXPECT_EQ(message.find(path), 0u) << message;
    return message;
  };
  const auto edited = [&](const std::string& pointer, const nlohmann::json& value) {
    auto root = nlohmann::json::parse(whole);
    root[nlohmann::json::json_pointer(pointer)] = value;
    return loading(root.dump());
  };
  for (const size_t size : {size_t{0}, size_t{1}, whole.size() / 2, whole.size() - 3}) {
    EXPECT_TRUE(says(loading(whole.substr(0, size)), "no valid JSON", "at byte"));
  }
  EXPECT_TRUE(says(loading("[]"), "expected a tokenizer.json"));
  EXPECT_TRUE(says(loading("{\"model\": \"x\"}"), "expected a tokenizer.json"));
  EXPECT_TRUE(says(edited("/model/type", "WordPiece"), "expected a BPE model", "WordPiece"));
  EXPECT_TRUE(says(edited("/model/end_of_word_suffix", nullptr), "</w>"));
  EXPECT_TRUE(says(edited("/model/merges/0", 7), "merge 1"));
  EXPECT_TRUE(says(edited("/model/merges/0", {1, 2}), "expected a tokenizer.json"));
  EXPECT_TRUE(says(edited("/model/merges", 7), "a list of merges", "7"));
  EXPECT_TRUE(says(edited("/model/vocab/!", 5), "\"!\" with id 0", "found 5"));
  EXPECT_TRUE(says(edited("/model/vocab/more", 560), "expected 560 tokens", "found 561"));
}

TEST(TokenizerFile, FolderOrMissingFileIsAnErrorThatNamesThePath) {
  const ScratchFolder folder;
  for (const char* name : {"none.txt", "none.json"}) {
    EXPECT_TRUE(says(error_message([&] { Tokenizer::load(folder.path(name)); }), folder.path(name),
                     "cannot be read"));
  }
  EXPECT_TRUE(says(error_message([&] { Tokenizer::load(folder.path()); }), folder.path(),
                   "expected a folder with tokenizer.json"));
}

TEST(TokenizerFile, SavingWhereNothingCanBeWrittenIsAnErrorThatNamesThePath) {
  const ScratchFolder folder;
  const std::string path = folder.path() + "/missing/tokenizer.json";
  EXPECT_TRUE(says(error_message([&] { learned().save(path); }), folder.path() + "/missing",
                   "cannot create", "No such file"));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace clip
