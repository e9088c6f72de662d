// What CLIP does to a caption before the vocabulary sees it. Reference: openai/CLIP
// clip/simple_tokenizer.py (its pattern), rspeer/python-ftfy (its repairs).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace clip {

inline constexpr std::string_view kStartOfText = "<|startoftext|>";
inline constexpr std::string_view kEndOfText = "<|endoftext|>";
inline constexpr std::string_view kEndOfWord = "</w>";

/// The 256 bytes in the order of their ids: those that print in Latin-1 first, then the others.
const std::array<uint8_t, 256>& bytes_in_id_order();

/// CLIP's letter for the byte with that id, in UTF-8: the byte's own character if it prints, else
/// one counted up from U+0100, so that files of merges hold neither spaces nor control characters.
std::string byte_letter(int32_t id);

/// Text of a file as an error may show it: in quotes, cut, "?" for controls.
std::string quoted(std::string_view text);

/// The caption as CLIP reads it: repaired, HTML unescaped twice, white space collapsed, lower case.
/// The repairs are all of ftfy's, of wrongly decoded text too ("schÃ¶n").
/// Bytes that are no UTF-8 become U+FFFD; the result is always valid UTF-8.
std::string clean_text(std::string_view text);

/// The next match of CLIP's pattern in cleaned text from `at` on, which moves behind it; empty when
/// there is none left. The pattern, in this order: a special token; 's 't 're 've 'm 'll 'd;
/// letters; one number; a run of what is neither white space, letter nor number.
std::string_view next_word(std::string_view text, size_t& at);

}  // namespace clip
