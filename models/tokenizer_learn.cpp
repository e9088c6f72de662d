// Learns the merges of a vocabulary. Reference: Sennrich et al. 2016 (arXiv:1508.07909), algorithm
// 1, on bytes.
#include <algorithm>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "engine/check.h"
#include "models/tokenizer.h"
#include "models/tokenizer_text.h"

namespace clip {
namespace {

struct Word {
  std::vector<int32_t> symbols;
  int64_t count = 0;
};

uint64_t key_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
}
int32_t left_of(uint64_t pair) { return static_cast<int32_t>(pair >> 32); }
int32_t right_of(uint64_t pair) { return static_cast<int32_t>(pair & 0xffffffffu); }

/// The pair becomes `merged` wherever it stands, from left to right.
void replace(std::vector<int32_t>& symbols, uint64_t pair, int32_t merged) {
  size_t kept = 0;
  for (size_t i = 0; i < symbols.size(); ++i, ++kept) {
    const bool found = i + 1 < symbols.size() && key_of(symbols[i], symbols[i + 1]) == pair;
    symbols[kept] = found ? merged : symbols[i];
    if (found) ++i;
  }
  symbols.resize(kept);
}

/// Counts of neighbouring symbols, kept up to date as pairs are merged: each merge touches only the
/// words that hold its pair.
class PairCounts {
 public:
  explicit PairCounts(const std::unordered_map<std::string, int64_t>& words);

  /// The pair that occurs most often, at least twice, and makes a new symbol; false if none does.
  bool most_frequent(uint64_t& pair);
  void merge(uint64_t pair);

  const std::string& spelling(int32_t id) const { return spellings_[static_cast<size_t>(id)]; }

 private:
  struct Pair {
    int64_t count = 0;
    std::vector<size_t> words;  // where it occurs, or occurred
  };

  /// Counts only fall once a pair is queued, so a count that is too high is put right when it
  /// reaches the top.
  struct Queued {
    int64_t count;
    uint64_t pair;
  };

  void add(const Word& word, int64_t times);
  void note_use(uint64_t pair, size_t word);
  void queue(uint64_t pair);
  bool comes_later(const Queued& a, const Queued& b) const;

  std::vector<Word> words_;
  std::vector<std::string> spellings_;  // by id
  std::unordered_set<std::string> known_;
  std::unordered_map<uint64_t, Pair> pairs_;
  std::vector<Queued> queue_;  // a heap, the most frequent on top
};

PairCounts::PairCounts(const std::unordered_map<std::string, int64_t>& words) {
  for (int32_t id = 0; id < 256; ++id) spellings_.push_back(byte_letter(id));
  for (int32_t id = 0; id < 256; ++id) {
    spellings_.push_back(byte_letter(id) + std::string(kEndOfWord));
  }
  known_.insert(spellings_.begin(), spellings_.end());

  std::vector<int32_t> byte_ids(256);
  for (size_t id = 0; id < 256; ++id) byte_ids[bytes_in_id_order()[id]] = static_cast<int32_t>(id);
  for (const auto& [text, count] : words) {
    Word word{.symbols = {}, .count = count};
    for (const char byte : text) word.symbols.push_back(byte_ids[static_cast<uint8_t>(byte)]);
    word.symbols.back() += 256;
    add(word, 1);
    for (size_t i = 0; i + 1 < word.symbols.size(); ++i) {
      note_use(key_of(word.symbols[i], word.symbols[i + 1]), words_.size());
    }
    words_.push_back(std::move(word));
  }
  for (const auto& [pair, uses] : pairs_) queue(pair);
}

void PairCounts::add(const Word& word, int64_t times) {
  for (size_t i = 0; i + 1 < word.symbols.size(); ++i) {
    pairs_[key_of(word.symbols[i], word.symbols[i + 1])].count += times * word.count;
  }
}

/// Called word by word, so a word that holds the pair often is noted once.
void PairCounts::note_use(uint64_t pair, size_t word) {
  std::vector<size_t>& words = pairs_[pair].words;
  if (words.empty() || words.back() != word) words.push_back(word);
}

bool PairCounts::comes_later(const Queued& a, const Queued& b) const {
  if (a.count != b.count) return a.count < b.count;
  const int left = spelling(left_of(a.pair)).compare(spelling(left_of(b.pair)));
  return left != 0 ? left > 0 : spelling(right_of(a.pair)) > spelling(right_of(b.pair));
}

void PairCounts::queue(uint64_t pair) {
  const int64_t count = pairs_[pair].count;
  if (count < 2) return;
  queue_.push_back({count, pair});
  std::push_heap(queue_.begin(), queue_.end(),
                 [this](const Queued& a, const Queued& b) { return comes_later(a, b); });
}

bool PairCounts::most_frequent(uint64_t& pair) {
  while (!queue_.empty()) {
    std::pop_heap(queue_.begin(), queue_.end(),
                  [this](const Queued& a, const Queued& b) { return comes_later(a, b); });
    const Queued top = queue_.back();
    queue_.pop_back();
    if (pairs_[top.pair].count != top.count) {
      queue(top.pair);
      continue;
    }
    pair = top.pair;
    // Two pairs may spell the same symbol; the vocabulary has room for it once.
    if (known_.count(spelling(left_of(pair)) + spelling(right_of(pair))) == 0) return true;
  }
  return false;
}

void PairCounts::merge(uint64_t pair) {
  const int32_t merged = static_cast<int32_t>(spellings_.size());
  spellings_.push_back(spelling(left_of(pair)) + spelling(right_of(pair)));
  known_.insert(spellings_.back());

  std::vector<uint64_t> made;  // pairs that the new symbol is part of
  const std::vector<size_t> uses = std::move(pairs_[pair].words);
  for (const size_t use : uses) {
    Word& word = words_[use];
    add(word, -1);
    replace(word.symbols, pair, merged);
    add(word, 1);
    for (size_t i = 0; i + 1 < word.symbols.size(); ++i) {
      if (word.symbols[i] != merged && word.symbols[i + 1] != merged) continue;
      made.push_back(key_of(word.symbols[i], word.symbols[i + 1]));
      note_use(made.back(), use);
    }
  }
  pairs_.erase(pair);
  std::sort(made.begin(), made.end());
  made.erase(std::unique(made.begin(), made.end()), made.end());
  for (const uint64_t each : made) queue(each);
}

std::unordered_map<std::string, int64_t> count_words(const std::vector<std::string>& captions) {
  std::unordered_map<std::string, int64_t> words;
  for (const std::string& caption : captions) {
    const std::string clean = clean_text(caption);
    size_t at = 0;
    for (std::string_view word = next_word(clean, at); !word.empty(); word = next_word(clean, at)) {
      if (word != kStartOfText && word != kEndOfText) ++words[std::string(word)];
    }
  }
  return words;
}

}  // namespace

Tokenizer Tokenizer::learn(const std::vector<std::string>& captions, int64_t vocab_size) {
  CLIP_CHECK(vocab_size >= kSmallestVocabulary, "[tokenizer] vocabulary size must be at least ",
             kSmallestVocabulary, " (256 bytes, 256 that end a word, start and end), got ",
             vocab_size);
  PairCounts counts(count_words(captions));
  std::vector<Merge> merges;
  uint64_t pair = 0;
  while (std::ssize(merges) < vocab_size - kSmallestVocabulary && counts.most_frequent(pair)) {
    merges.emplace_back(counts.spelling(left_of(pair)), counts.spelling(right_of(pair)));
    counts.merge(pair);
  }
  return Tokenizer(std::move(merges));
}

}  // namespace clip
