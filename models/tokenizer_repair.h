// Repairs of damaged text, the steps of models/tokenizer_text.h's clean_text(). Facts from
// rspeer/python-ftfy 6.3 (what is damaged and how it is mended), WHATWG HTML and Python's
// html.unescape.
#pragma once

#include <unicode/unistr.h>

#include <string>
#include <string_view>

namespace clip {

/// All of ftfy's repairs (its fix_text with default options), line by line, until nothing changes:
/// HTML references, wrongly decoded text, C1 controls, ligatures, widths, quotes, line breaks,
/// terminal escapes, controls, NFC.
std::u32string repair_text(const std::u32string& text);

/// Undoes decoding by a wrong encoding ("schÃ¶n"), in the whole text or the parts that show it,
/// where looks_wrongly_decoded() says so; other text is returned as it is.
std::u32string repair_encoding(std::u32string text);

/// Whether some characters stand beside each other as they do in UTF-8 read as a one-byte encoding
/// and hardly ever in text.
bool looks_wrongly_decoded(std::u32string_view text);

/// What a C1 control (U+0080 to U+009F) was meant to be: that byte's character in Windows-1252.
char32_t windows_1252(char32_t c1_control);

/// Which references to characters unescape_html() replaces.
enum class References {
  kAll,         ///< as browsers and Python's html.unescape do: "&eacute", "&#233" too
  kUnmistaken,  ///< as ftfy does: only with ";", but also in capitals ("&EACUTE;")
};

/// Replaces references to characters by the characters; a name not known stays as it is written.
std::u32string unescape_html(std::u32string text, References references);

/// HTML's named references, a space between: the name, ";" if it needs one behind it or "=" if not,
/// one or two code points in hexadecimal, "+" between.
extern const std::string_view kHtmlEntities;

icu::UnicodeString to_utf16(const std::u32string& text);
std::u32string to_utf32(const icu::UnicodeString& text);

}  // namespace clip
