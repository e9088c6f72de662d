#include "models/tokenizer_text.h"

#include <unicode/bytestream.h>
#include <unicode/locid.h>
#include <unicode/uchar.h>

#include <utility>

#include "engine/check.h"
#include "models/tokenizer_repair.h"

namespace clip {
namespace {

// --- Cleaning -----------------------------------------------------------------------------------

std::u32string collapse_white_space(const std::u32string& text) {
  std::u32string out;
  out.reserve(text.size());
  bool space = false;
  for (const char32_t c : text) {
    const bool visible = c > U' ' && c < 0x7f;
    if (!visible && u_isUWhiteSpace(static_cast<UChar32>(c))) {
      space = true;
      continue;
    }
    if (space && !out.empty()) out.push_back(U' ');
    space = false;
    out.push_back(c);
  }
  return out;
}

/// Most captions need neither repair nor ICU: printable ASCII without "&". False if this one does.
bool clean_plain_ascii(std::string_view text, std::string& out) {
  bool space = false;
  for (const char c : text) {
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
      space = true;
      continue;
    }
    if (c <= ' ' || c == 0x7f || c == '&') return false;  // c < 0: not ASCII
    if (space && !out.empty()) out.push_back(' ');
    space = false;
    out.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c + 'a' - 'A') : c);
  }
  return true;
}

// --- The pattern --------------------------------------------------------------------------------

enum class Kind { kSpace, kLetter, kNumber, kOther };

struct Character {
  Kind kind;
  size_t bytes;
};

Kind kind_of(UChar32 c) {
  const uint32_t category = U_GET_GC_MASK(c);
  if (category & U_GC_L_MASK) return Kind::kLetter;
  if (category & U_GC_N_MASK) return Kind::kNumber;
  if (u_isUWhiteSpace(c)) return Kind::kSpace;
  // The pattern ignores case, and this combining iota's capital is a letter: neither \p{L} nor its
  // complement match it, so it is skipped as white space is.
  return c == 0x345 ? Kind::kSpace : Kind::kOther;
}

/// kind_of() of ASCII: captions are made of little else.
Kind ascii_kind(unsigned char c) {
  static const std::array<Kind, 128> kinds = [] {
    std::array<Kind, 128> table{};
    for (size_t i = 0; i < table.size(); ++i) table[i] = kind_of(static_cast<UChar32>(i));
    return table;
  }();
  return kinds[c];
}

/// The character at `at`; bytes that are no UTF-8 count one by one as kOther.
Character character_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const auto tail = [&](size_t i) { return static_cast<UChar32>(byte(i) & 0x3f); };
  const UChar32 lead = static_cast<UChar32>(byte(at));
  if (lead < 0x80) return {ascii_kind(static_cast<unsigned char>(lead)), 1};
  if (lead < 0xc0 || at + (lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3) >= text.size()) {
    return {Kind::kOther, 1};
  }
  if (lead < 0xe0) return {kind_of((lead & 0x1f) << 6 | tail(at + 1)), 2};
  if (lead < 0xf0) return {kind_of((lead & 0xf) << 12 | tail(at + 1) << 6 | tail(at + 2)), 3};
  return {kind_of((lead & 7) << 18 | tail(at + 1) << 12 | tail(at + 2) << 6 | tail(at + 3)), 4};
}

/// End of the run of characters of this kind that begins at `at`.
size_t run_end(std::string_view text, size_t at, Kind kind) {
  while (at < text.size()) {
    const Character character = character_at(text, at);
    if (character.kind != kind) break;
    at += character.bytes;
  }
  return at;
}

constexpr std::string_view kLongS = "\u017f";  // a small letter, yet equal to "s" ignoring case

/// Bytes of `text` that match `lower` ignoring case, else 0. `text` is lower case already, so only
/// the long s is left to be ignored.
size_t matches(std::string_view text, std::string_view lower) {
  size_t at = 0;
  for (const char c : lower) {
    if (at < text.size() && text[at] == c) {
      ++at;
    } else if (c == 's' && text.substr(at, kLongS.size()) == kLongS) {
      at += kLongS.size();
    } else {
      return 0;
    }
  }
  return at;
}

/// Bytes of the special token or contraction that `text` begins with, else 0.
size_t literal_length(std::string_view text) {
  if (text[0] == '<') {
    const size_t start = matches(text, kStartOfText);
    return start > 0 ? start : matches(text, kEndOfText);
  }
  if (text[0] != '\'') return 0;
  for (const std::string_view contraction : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (const size_t length = matches(text, contraction); length > 0) return length;
  }
  return 0;
}

}  // namespace

const std::array<uint8_t, 256>& bytes_in_id_order() {
  static const std::array<uint8_t, 256> bytes = [] {
    const auto prints = [](int b) {
      return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xff && b != 0xad);
    };
    std::array<uint8_t, 256> order{};
    size_t next = 0;
    for (int b = 0; b < 256; ++b) {
      if (prints(b)) order[next++] = static_cast<uint8_t>(b);
    }
    for (int b = 0; b < 256; ++b) {
      if (!prints(b)) order[next++] = static_cast<uint8_t>(b);
    }
    return order;
  }();
  return bytes;
}

std::string byte_letter(int32_t id) {
  constexpr int32_t kPrinting = 188;
  const UChar32 letter =
      id < kPrinting ? bytes_in_id_order()[static_cast<size_t>(id)] : 0x100 + id - kPrinting;
  std::string utf8;
  return icu::UnicodeString(letter).toUTF8String(utf8);
}

std::string quoted(std::string_view text) {
  constexpr size_t kMostBytes = 60;
  std::string shown(text.substr(0, kMostBytes));
  for (char& c : shown) {
    if ((c >= 0 && c < ' ') || c == 0x7f) c = '?';
  }
  return "\"" + shown + (text.size() > kMostBytes ? "...\"" : "\"");
}

std::string clean_text(std::string_view text) {
  constexpr size_t kMostBytes = size_t{1} << 28;  // ICU counts in 32 bits
  CLIP_CHECK(text.size() <= kMostBytes, "[tokenizer] a text may have at most ", kMostBytes,
             " bytes, got ", text.size());
  std::string clean;
  clean.reserve(text.size());
  if (clean_plain_ascii(text, clean)) return clean;

  std::u32string whole = repair_text(
      to_utf32(icu::UnicodeString::fromUTF8({text.data(), static_cast<int32_t>(text.size())})));
  for (int time = 0; time < 2; ++time) whole = unescape_html(std::move(whole), References::kAll);
  icu::UnicodeString unicode = to_utf16(collapse_white_space(whole));
  unicode.toLower(icu::Locale::getRoot());
  clean.clear();
  return unicode.toUTF8String(clean);
}

std::string_view next_word(std::string_view text, size_t& at) {
  at = run_end(text, at, Kind::kSpace);
  if (at >= text.size()) return {};
  const size_t begin = at;
  const Character first = character_at(text, at);
  if (const size_t length = literal_length(text.substr(at)); length > 0) {
    at += length;
  } else if (first.kind == Kind::kNumber) {
    at += first.bytes;
  } else {
    at = run_end(text, at, first.kind);
  }
  return text.substr(begin, at - begin);
}

}  // namespace clip
