// Byte-level BPE with CLIP's rules. Reference: openai/CLIP clip/simple_tokenizer.py.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/merge_table.h"

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

  /// From a file, told by its content: a Hugging Face tokenizer.json, or vocab.json with merges.txt
  /// beside it; a merges.txt, or CLIP's bpe_simple_vocab_16e6.txt of which the first 48,894 merges
  /// count, as CLIP has it. Each gzipped or not. From a folder: tokenizer.json, else vocab.json and
  /// merges.txt, else merges.txt.
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

  /// Ids of the cleaned text (clean_text() of models/tokenizer_text.h), without start and end.
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

  /// The end of a word's hash, and the symbol; below 0: none.
  struct WholeWord {
    uint32_t hash = 0;
    int32_t id = -1;
  };

  class WordEncoder;

  void find_whole_words();
  /// The place in whole_words_ where `word` with that hash is, or would be put.
  size_t whole_word_slot(std::string_view word, size_t hash) const;
  /// Appends the ids of the words of `text` until `ids` holds `most_ids` or more.
  void append_words(std::vector<int32_t>& ids, std::string_view text, size_t most_ids) const;

  std::vector<Merge> merges_;
  std::vector<Symbol> symbols_;  // by id
  MergeTable merged_;
  std::array<int32_t, 256> byte_ids_;
  /// Words that merge to one symbol, by the hash of their bytes: most words of a caption are found
  /// here and need no merging.
  std::vector<WholeWord> whole_words_;
};

/// CLIP's own vocabulary of 49,408 ids. Without `merges_file`, its bpe_simple_vocab_16e6.txt.gz is
/// looked for in data/ of the working folder and of the folders above the program, where
/// `make deps` puts it.
/// throws clip::Error that says how to get the file, or that `merges_file` is another
Tokenizer clip_tokenizer(const std::string& merges_file = "");

/// Where clip_tokenizer() finds CLIP's merges; nothing if they are not there.
std::optional<std::string> find_clip_merges();

}  // namespace clip
