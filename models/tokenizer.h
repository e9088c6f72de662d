// Byte-level BPE with CLIP's rules. Reference: openai/CLIP clip/simple_tokenizer.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace clip {

/// Text to token ids. Ids: 256 bytes, 256 bytes that end a word ("</w>"), one per merge in order,
/// <|startoftext|>, <|endoftext|>; so end-of-text is always the largest.
/// Thread-safe for reading.
class Tokenizer {
 public:
  using Merge = std::pair<std::string, std::string>;

  /// 256 bytes, 256 bytes that end a word, start and end of text: a vocabulary without any merge.
  static constexpr int64_t kSmallestVocabulary = 514;

  /// From merge rules, most frequent first; symbols are spelled with CLIP's byte-to-unicode
  /// letters.
  /// throws clip::Error that names the merge (counted from 1) if a part is no symbol made before
  /// it, or if what it makes exists already
  explicit Tokenizer(std::vector<Merge> merges);

  /// A vocabulary learned from captions: merges pairs, most frequent first (ties: smaller strings
  /// first), until `vocab_size` ids exist or no pair occurs twice.
  /// throws clip::Error if `vocab_size` is below kSmallestVocabulary
  static Tokenizer learn(const std::vector<std::string>& captions, int64_t vocab_size);

  /// From a checkpoint's file: a Hugging Face tokenizer.json (a name that ends in ".json"), or a
  /// merges.txt / CLIP's bpe_simple_vocab_16e6.txt, gzipped or not (of the latter the first 48,894
  /// merges, as CLIP has it).
  /// throws clip::Error that names the path
  static Tokenizer load(const std::string& path);

  /// Writes a tokenizer.json that Hugging Face's `tokenizers` and open_clip's HFTokenizer read, and
  /// beside it the tokenizer_config.json without which open_clip does not know what to pad with.
  /// Each file is written under a temporary name, synced and renamed.
  /// throws clip::Error that names the
  /// path
  void save(const std::string& path) const;
  std::string to_json() const;

  int64_t vocab_size() const { return static_cast<int64_t>(symbols_.size()); }
  int32_t start_of_text() const { return static_cast<int32_t>(vocab_size()) - 2; }
  int32_t end_of_text() const { return static_cast<int32_t>(vocab_size()) - 1; }

  /// Ids of the cleaned text (HTML unescaped twice, white space collapsed, lower case; all of it in
  /// clean_text() of models/tokenizer_text.h), without start and end. Bytes that are no UTF-8
  /// become U+FFFD; of ftfy's repairs the one of wrongly decoded text is missing.
  std::vector<int32_t> encode(std::string_view text) const;

  /// start-of-text, encode(text), end-of-text, cut to `context_length` with end-of-text kept; no
  /// padding.
  /// throws clip::Error if `context_length` is below 2
  std::vector<int32_t> tokenize(std::string_view text, int64_t context_length) const;

  /// The text of ids; words are separated by one space, start and end are left out, bytes that make
  /// no UTF-8 (ids cut inside a character) become U+FFFD.
  /// throws clip::Error at an id outside the
  /// vocabulary
  std::string decode(const std::vector<int32_t>& ids) const;

  /// The token as files spell it: CLIP's letters for its bytes, and "</w>" if it ends a word.
  std::string spelling(int32_t id) const;

  const std::vector<Merge>& merges() const { return merges_; }

 private:
  /// A symbol of the vocabulary: the bytes it stands for.
  struct Symbol {
    std::string bytes;
    bool ends_word = false;
  };

  class WordEncoder;
  static constexpr int32_t kNoRule = -1;

  int32_t merged(int32_t left, int32_t right) const;  ///< the symbol they make, or kNoRule
  std::vector<int32_t> encode_words(std::string_view text, size_t most_ids) const;

  std::vector<Merge> merges_;
  std::vector<Symbol> symbols_;                   // by id
  std::unordered_map<uint64_t, int32_t> merged_;  // pair_key(left, right) to the symbol it makes
  std::vector<int32_t> byte_ids_;                 // by byte
};

}  // namespace clip
