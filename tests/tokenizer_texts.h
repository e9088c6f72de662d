// Texts that try a tokenizer: the same as those of tests/reference/tokenizer_texts.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/random.h"

namespace clip {

/// All assigned characters, words, text decoded by a wrong encoding, references of HTML, controls:
/// a text by its number, from 0 to kCount - 1.
class TokenizerTexts {
 public:
  static constexpr int64_t kCount = 20480;

  TokenizerTexts();  ///< reads tests/reference/tokenizer_alphabets.json

  std::string text(int64_t index) const;  ///< UTF-8

 private:
  std::u32string of_kind(Random& random, int64_t kind) const;
  std::u32string walk(Random& random, int64_t step) const;
  std::u32string word(Random& random) const;
  std::u32string written_word(Random& random) const;
  std::u32string mixed(Random& random) const;
  std::u32string wrongly_decoded(Random& random) const;
  std::u32string misread(Random& random, const std::u32string& text) const;
  std::u32string bytes_of_an_encoding(Random& random) const;
  std::u32string references(Random& random) const;

  struct Range {
    char32_t first, last;
  };
  std::u32string assigned_;                  // by Unicode 14
  std::vector<Range> written_;               // what is written most
  std::vector<std::u32string> pieces_;       // what words are mixed with
  std::vector<std::u32string> encodings_;    // characters of bytes 80 to FF
  std::vector<std::u32string> entities_;     // names
  std::vector<std::u32string> odd_numbers_;  // references to what is no character
};

}  // namespace clip
