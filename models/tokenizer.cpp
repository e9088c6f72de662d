#include "models/tokenizer.h"

#include <unicode/unistr.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <string>
#include <unordered_map>

#include "engine/check.h"
#include "models/tokenizer_text.h"

namespace clip {

Tokenizer::Tokenizer(std::vector<Merge> merges)
    : merges_(std::move(merges)), merged_(merges_.size()) {
  std::unordered_map<std::string, int32_t> ids;
  const auto add = [&](std::string spelling, Symbol symbol) {
    const bool added =
        ids.emplace(std::move(spelling), static_cast<int32_t>(symbols_.size())).second;
    symbols_.push_back(std::move(symbol));
    return added;
  };
  for (const bool ends_word : {false, true}) {
    for (int32_t id = 0; id < 256; ++id) {
      const uint8_t byte = bytes_in_id_order()[static_cast<size_t>(id)];
      byte_ids_[byte] = id;
      std::string spelling = byte_letter(id);
      if (ends_word) spelling += kEndOfWord;
      add(std::move(spelling), {std::string(1, static_cast<char>(byte)), ends_word});
    }
  }
  for (size_t i = 0; i < merges_.size(); ++i) {
    const std::string &left = merges_[i].first, &right = merges_[i].second;
    const auto rule = [&] {
      return concat("[tokenizer] merge ", i + 1, " (", quoted(left), ", ", quoted(right), ")");
    };
    for (const std::string& part : {left, right}) {
      CLIP_CHECK(ids.count(part) > 0, rule(), ": expected symbols that earlier merges made, found ",
                 quoted(part));
    }
    const int32_t left_id = ids.at(left);
    const int32_t right_id = ids.at(right);
    const Symbol& end = symbols_[static_cast<size_t>(right_id)];
    merged_.add(left_id, right_id, static_cast<int32_t>(symbols_.size()));
    CLIP_CHECK(add(left + right,
                   {symbols_[static_cast<size_t>(left_id)].bytes + end.bytes, end.ends_word}),
               rule(), ": its symbol exists already");
  }
  symbols_.push_back({});  // start and end of text stand for no bytes
  symbols_.push_back({});
  find_whole_words();
}

std::string Tokenizer::spelling(int32_t id) const {
  if (id == start_of_text()) return std::string(kStartOfText);
  if (id == end_of_text()) return std::string(kEndOfText);
  if (id >= 512) {
    const auto& [left, right] = merges_[static_cast<size_t>(id - 512)];
    return left + right;
  }
  return id < 256 ? byte_letter(id) : byte_letter(id - 256) + std::string(kEndOfWord);
}

/// Merges the bytes of one word, the pair with the earliest rule first; of equal pairs the
/// leftmost. A heap over a linked list, so that a word of a million letters takes no more than n
/// log n.
class Tokenizer::WordEncoder {
 public:
  explicit WordEncoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void append(std::string_view word, std::vector<int32_t>& ids) {
    symbols_.clear();
    candidates_.clear();
    for (const char byte : word) {
      const int32_t at = static_cast<int32_t>(symbols_.size());
      symbols_.push_back({tokenizer_.byte_ids_[static_cast<unsigned char>(byte)], at - 1, at + 1});
    }
    symbols_.back().id += 256;  // this byte ends the word
    symbols_.back().next = kNone;
    for (int32_t left = 0; symbol(left).next != kNone; ++left) consider(left);
    while (!candidates_.empty()) merge_first();
    for (int32_t at = 0; at != kNone; at = symbol(at).next) ids.push_back(symbol(at).id);
  }

 private:
  static constexpr int32_t kNone = -1;

  struct LinkedSymbol {
    int32_t id;  // kNone: merged into the one before it
    int32_t previous;
    int32_t next;
  };

  /// `left` and its successor may become `merged`: ids of merges count up as the rules do.
  struct Candidate {
    int32_t merged;
    int32_t left;
    int32_t left_id;
    int32_t right_id;
    bool operator>(const Candidate& other) const {
      return merged != other.merged ? merged > other.merged : left > other.left;
    }
  };

  LinkedSymbol& symbol(int32_t at) { return symbols_[static_cast<size_t>(at)]; }

  void consider(int32_t left) {
    const int32_t left_id = symbol(left).id;
    const int32_t right_id = symbol(symbol(left).next).id;
    const int32_t merged = tokenizer_.merged_.find(left_id, right_id);
    if (merged == MergeTable::kNone) return;
    candidates_.push_back({merged, left, left_id, right_id});
    std::push_heap(candidates_.begin(), candidates_.end(), std::greater<>());
  }

  void merge_first() {
    std::pop_heap(candidates_.begin(), candidates_.end(), std::greater<>());
    const Candidate best = candidates_.back();
    candidates_.pop_back();
    LinkedSymbol& left = symbol(best.left);
    // Another merge may have taken either of the two since.
    if (left.id != best.left_id || left.next == kNone || symbol(left.next).id != best.right_id) {
      return;
    }
    LinkedSymbol& right = symbol(left.next);
    left.id = best.merged;
    left.next = right.next;
    right.id = kNone;
    if (left.next != kNone) {
      symbol(left.next).previous = best.left;
      consider(best.left);
    }
    if (left.previous != kNone) consider(left.previous);
  }

  const Tokenizer& tokenizer_;
  std::vector<LinkedSymbol> symbols_;
  std::vector<Candidate> candidates_;  // a heap, the earliest rule on top
};

size_t Tokenizer::whole_word_slot(std::string_view word, size_t hash) const {
  const auto is_other = [&](const WholeWord& slot) {
    return slot.id >= 0 && (slot.hash != static_cast<uint32_t>(hash) ||
                            symbols_[static_cast<size_t>(slot.id)].bytes != word);
  };
  const size_t mask = whole_words_.size() - 1;
  size_t at = hash & mask;
  while (is_other(whole_words_[at])) at = (at + 1) & mask;
  return at;
}

void Tokenizer::find_whole_words() {
  whole_words_.resize(std::bit_ceil(2 * symbols_.size()));
  WordEncoder encoder(*this);
  std::vector<int32_t> ids;
  for (const auto& [bytes, ends_word] : symbols_) {
    if (!ends_word) continue;
    ids.clear();
    encoder.append(bytes, ids);  // earlier rules may take its letters elsewhere
    if (ids.size() > 1) continue;
    const size_t hash = std::hash<std::string_view>()(bytes);
    whole_words_[whole_word_slot(bytes, hash)] = {static_cast<uint32_t>(hash), ids[0]};
  }
}

void Tokenizer::append_words(std::vector<int32_t>& ids, std::string_view text,
                             size_t most_ids) const {
  const std::string clean = clean_text(text);
  WordEncoder encoder(*this);
  size_t at = 0;
  while (ids.size() < most_ids) {
    const std::string_view word = next_word(clean, at);
    if (word.empty()) return;
    if (word == kStartOfText) {
      ids.push_back(start_of_text());
    } else if (word == kEndOfText) {
      ids.push_back(end_of_text());
    } else {
      const size_t hash = std::hash<std::string_view>()(word);
      const int32_t whole = whole_words_[whole_word_slot(word, hash)].id;
      if (whole >= 0) {
        ids.push_back(whole);
      } else {
        encoder.append(word, ids);
      }
    }
  }
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  append_words(ids, text, std::numeric_limits<size_t>::max());
  return ids;
}

std::vector<int32_t> Tokenizer::tokenize(std::string_view text, int64_t context_length) const {
  CLIP_CHECK(context_length >= 2,
             "[tokenizer] context length must be at least 2 (start and end of text), got ",
             context_length);
  const size_t most_ids = static_cast<size_t>(context_length) - 1;  // end of text comes behind
  std::vector<int32_t> ids;
  ids.reserve(std::min(most_ids, text.size() + 1) + 1);
  ids.push_back(start_of_text());
  append_words(ids, text, most_ids);
  ids.resize(std::min(ids.size(), most_ids));
  ids.push_back(end_of_text());
  return ids;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids) const {
  std::string bytes;
  for (const int32_t id : ids) {
    CLIP_CHECK(id >= 0 && id < vocab_size(), "[tokenizer] ids must be 0 to ", vocab_size() - 1,
               ", got ", id);
    const Symbol& symbol = symbols_[static_cast<size_t>(id)];
    bytes += symbol.bytes;
    if (symbol.ends_word) bytes += ' ';
  }
  if (!bytes.empty() && bytes.back() == ' ') bytes.pop_back();
  std::string text;
  return icu::UnicodeString::fromUTF8(bytes).toUTF8String(text);
}

}  // namespace clip
