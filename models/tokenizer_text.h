// What CLIP does to a caption before the vocabulary sees it. Reference: openai/CLIP
// clip/simple_tokenizer.py (its pattern), rspeer/python-ftfy (its repairs), WHATWG HTML (entities).
#pragma once

#include <unicode/unistr.h>

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

/// Which references to characters unescape_html() replaces.
enum class References {
  kAll,         ///< as browsers and Python's html.unescape do: "&eacute", "&#233" too
  kUnmistaken,  ///< as ftfy does: only with ";", but also in capitals ("&EACUTE;")
};

/// Replaces references to characters by the characters. Names known: HTML 4's 252, HTML 5's for
/// characters below U+0180, and some symbols; a name not known stays as it is written.
icu::UnicodeString unescape_html(const icu::UnicodeString& text, References references);

/// What a C1 control (U+0080 to U+009F) was meant to be: that byte's character in Windows-1252.
UChar32 windows_1252(UChar32 c1_control);

/// The caption as CLIP reads it: repaired, HTML unescaped twice, white space collapsed, lower case.
///
/// Repairs are ftfy's but one: straight quotes for curly ones, letters for Latin ligatures, common
/// widths for full and half ones, Windows-1252 for C1 controls, no other controls, no terminal
/// escapes, NFC. Not yet: text decoded by a wrong encoding ("schÃ¶n") stays as it is.
/// Bytes that are no UTF-8 become U+FFFD; the result is always valid UTF-8.
std::string clean_text(std::string_view text);

/// The next match of CLIP's pattern in cleaned text from `at` on, which moves behind it; empty when
/// there is none left. The pattern, in this order: a special token; 's 't 're 've 'm 'll 'd;
/// letters; one number; a run of what is neither white space, letter nor number.
std::string_view next_word(std::string_view text, size_t& at);

}  // namespace clip
