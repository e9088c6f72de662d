// Ids of 20,480 texts against those of open_clip's tokenizer, of which one hash per 64 texts is
// stored (tests/reference/make_tokenizer_reference.py).
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "models/atomic_file.h"
#include "models/tokenizer.h"
#include "tests/reference_path.h"
#include "tests/tokenizer_texts.h"

namespace clip {
namespace {

constexpr int64_t kBlock = 64;

using Lists = std::vector<std::vector<int32_t>>;

/// FNV-1a over ids of four bytes, the lowest first; -1 ends a text.
std::string hash_of(const Lists& lists) {
  uint64_t hash = 0xCBF29CE484222325;
  const auto add = [&](int32_t id) {
    for (int shift = 0; shift < 32; shift += 8) {
      hash = (hash ^ (static_cast<uint32_t>(id) >> shift & 0xff)) * 0x100000001B3;
    }
  };
  for (const std::vector<int32_t>& ids : lists) {
    for (const int32_t id : ids) add(id);
    add(-1);
  }
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  return digits;
}

/// Compares with the stored hashes of that name. Texts of blocks that differ are left with their
/// ids in a file, from which the script tells which texts they are.
void expect_the_ids_of_open_clip(const Tokenizer& tokenizer, const std::string& name) {
  const auto stored =
      nlohmann::json::parse(read_file(reference_path("tokenizer_hashes.json"), int64_t{1} << 20));
  const std::set<int64_t> left_out = stored["left out"];  // not the same in every Unicode
  const auto& hashes = stored[name];
  ASSERT_EQ(std::ssize(hashes) * kBlock, TokenizerTexts::kCount);
  ASSERT_GE(TokenizerTexts::kCount - std::ssize(left_out), 20000);
  const TokenizerTexts texts;
  std::string different;
  for (int64_t first = 0; first < TokenizerTexts::kCount; first += kBlock) {
    Lists lists;
    std::string lines;
    for (int64_t i = first; i < first + kBlock; ++i) {
      if (left_out.count(i) > 0) continue;
      lists.push_back(tokenizer.encode(texts.text(i)));
      lines += std::to_string(i) + ":";
      for (const int32_t id : lists.back()) lines += " " + std::to_string(id);
      lines += "\n";
    }
    if (hash_of(lists) != hashes[static_cast<size_t>(first / kBlock)]) different += lines;
  }
  if (different.empty()) return;
  const std::string path =
      (std::filesystem::temp_directory_path() / "clip_tokenizer_ids.txt").string();
  std::ofstream(path) << name << "\n" << different;
  ADD_FAILURE() << "ids differ; which: python3 tests/reference/make_tokenizer_reference.py "
                << "--compare " << path;
}

TEST(TokenizerParity, TwoThousandMergesGiveTheIdsOfOpenClip) {
  expect_the_ids_of_open_clip(Tokenizer::load(reference_path("tokenizer_merges.txt")),
                              "2000 merges");
}

TEST(TokenizerParity, AllMergesOfClipGiveTheIdsOfOpenClip) {
  if (!find_clip_merges()) GTEST_SKIP() << "CLIP's merges are not in data/; make deps fetches them";
  expect_the_ids_of_open_clip(clip_tokenizer(), "all merges");
}

}  // namespace
}  // namespace clip
