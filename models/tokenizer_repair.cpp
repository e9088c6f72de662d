#include "models/tokenizer_repair.h"

#include <unicode/normalizer2.h>
#include <unicode/uchar.h>

#include <algorithm>
#include <utility>

#include "engine/check.h"

namespace clip {
namespace {

const icu::Normalizer2& normalizer(const char* form) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* found =
      icu::Normalizer2::getInstance(nullptr, form, UNORM2_COMPOSE, status);
  CLIP_CHECK(U_SUCCESS(status), "[tokenizer] ICU has no data for normalisation \"", form,
             "\": ", u_errorName(status));
  return *found;
}

std::u32string normalized(const icu::Normalizer2& form, const std::u32string& text) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::UnicodeString out = form.normalize(to_utf16(text), status);
  CLIP_CHECK(U_SUCCESS(status), "[tokenizer] ICU cannot normalise: ", u_errorName(status));
  return to_utf32(out);
}

std::u32string compose(std::u32string text) {
  static const icu::Normalizer2& nfc = normalizer("nfc");
  const auto stays = [](char32_t c) {  // with characters that stay too
    const auto point = static_cast<UChar32>(c);
    return c < 0x300 || (u_getCombiningClass(point) == 0 &&
                         u_getIntPropertyValue(point, UCHAR_NFC_QUICK_CHECK) == UNORM_YES);
  };
  if (std::all_of(text.begin(), text.end(), stays)) return text;
  return normalized(nfc, text);
}

/// In common letters: Latin ligatures, full and half widths.
void append_plain(std::u32string& out, char32_t c) {
  static const icu::Normalizer2& nfkc = normalizer("nfkc");
  const bool ligature = c == 0x132 || c == 0x133 || (c >= 0x1c4 && c <= 0x1cc) ||
                        (c >= 0x1f1 && c <= 0x1f3) || (c >= 0xfb00 && c <= 0xfb06);
  const bool wide = c == 0x3000 || (c >= 0xff01 && c < 0xfff0);
  if (c == 0x149) {
    out += U"'n";
  } else if (c == 0xfb05) {
    out += U"\u017ft";  // the long s stays
  } else if (ligature || wide) {
    out += normalized(nfkc, std::u32string(1, c));
  } else {
    out.push_back(c);
  }
}

std::u32string repair_characters(const std::u32string& text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size(); ++at) {
    char32_t c = text[at];
    if (c >= 0x80 && c <= 0x9f) c = windows_1252(c);
    if (c == U'\r' && at + 1 < text.size() && text[at + 1] == U'\n') continue;
    if (c == U'\r' || c == 0x2028 || c == 0x2029) {
      out.push_back(U'\n');
    } else if (c == 0x2bc || (c >= 0x2018 && c <= 0x201b)) {
      out.push_back(U'\'');
    } else if (c >= 0x201c && c <= 0x201f) {
      out.push_back(U'"');
    } else if (c < 0x100) {
      out.push_back(c);
    } else {
      append_plain(out, c);
    }
  }
  return out;
}

bool is_unwanted_control(char32_t c) {
  return (c < 0x20 && c != '\t' && c != '\n' && c != '\f' && c != '\r') || c == 0x7f ||
         (c >= 0x206a && c <= 0x206f) || c == 0xfeff || (c >= 0xfff9 && c <= 0xfffc);
}

/// Length of a terminal's colour code (ESC [ numbers letter) at `at`, else 0.
size_t terminal_escape_length(std::u32string_view text, size_t at) {
  if (!text.substr(at).starts_with(U"\x1b[")) return 0;
  size_t end = at + 2;
  while (end < text.size() && (u_isdigit(static_cast<UChar32>(text[end])) || text[end] == ';')) {
    ++end;
  }
  if (end == text.size()) return 0;
  const char32_t last = text[end] | 0x20;
  return last >= 'a' && last <= 'z' ? end + 1 - at : 0;
}

std::u32string without_controls(std::u32string text) {
  if (std::none_of(text.begin(), text.end(), is_unwanted_control)) return text;
  std::u32string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    if (const size_t escape = terminal_escape_length(text, at); escape > 0) {
      at += escape;
      continue;
    }
    if (!is_unwanted_control(text[at])) out.push_back(text[at]);
    ++at;
  }
  return out;
}

/// Repeats the repairs until nothing changes: what one of them uncovers another may mend.
std::u32string repair_line(std::u32string line, bool unescape) {
  // A megabyte of "&amp;amp;..." would take hours; no caption needs this many.
  constexpr size_t kMostCharacters = size_t{1} << 24;
  const size_t most_passes = std::max<size_t>(16, kMostCharacters / (line.size() + 1));
  for (size_t pass = 0; pass < most_passes; ++pass) {
    std::u32string repaired = unescape ? unescape_html(line, References::kUnmistaken) : line;
    repaired = repair_characters(repair_encoding(std::move(repaired)));
    repaired = compose(without_controls(repaired));
    if (repaired == line) break;
    line = std::move(repaired);
  }
  return line;
}

}  // namespace

icu::UnicodeString to_utf16(const std::u32string& text) {
  return icu::UnicodeString::fromUTF32(reinterpret_cast<const UChar32*>(text.data()),
                                       static_cast<int32_t>(text.size()));
}

std::u32string to_utf32(const icu::UnicodeString& text) {
  std::u32string out(static_cast<size_t>(text.countChar32()), 0);
  UErrorCode status = U_ZERO_ERROR;
  text.toUTF32(reinterpret_cast<UChar32*>(out.data()), static_cast<int32_t>(out.size()), status);
  return out;
}

std::u32string repair_text(const std::u32string& text) {
  constexpr size_t kLongestLine = 1000000;  // as ftfy
  std::u32string out;
  bool unescape = true;  // as ftfy: from a line with "<" on, the text may be HTML on purpose
  for (size_t begin = 0; begin < text.size();) {
    const size_t line_break = text.find(U'\n', begin);
    const size_t end = line_break == text.npos ? text.size() : line_break + 1;
    std::u32string line = text.substr(begin, std::min(end - begin, kLongestLine));
    begin += line.size();
    if (line.find(U'<') != line.npos) unescape = false;
    out += repair_line(std::move(line), unescape);
  }
  return out;
}

}  // namespace clip
