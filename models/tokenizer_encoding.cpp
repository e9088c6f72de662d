// Undoes decoding by a wrong encoding: finds the one-byte encoding that the text was read by,
// writes the bytes again and reads them as UTF-8. The encodings, their order and the sequences that
// are mended are those of ftfy 6.3 (ftfy/__init__.py, chardata.py, bad_codecs).
#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "models/tokenizer_repair.h"

namespace clip {
namespace {

// --- One-byte encodings -------------------------------------------------------------------------

enum class Holes {
  kNone,   // every byte has a character
  kSloppy  // bytes without a character are Latin-1's, and byte 1A stands for a lost character
};

class OneByteEncoding {
 public:
  /// `upper`: characters of bytes 80 to FF; "?" and what is left out are as in Latin-1.
  OneByteEncoding(std::u32string_view upper, Holes holes) : holes_(holes) {
    for (uint32_t byte = 0; byte < 256; ++byte) characters_[byte] = byte;
    for (size_t i = 0; i < upper.size(); ++i) {
      if (upper[i] != U'?') characters_[0x80 + i] = upper[i];
    }
    if (sloppy()) characters_[kLost] = 0xfffd;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      if (byte >= 0x80 || byte == kLost)
        bytes_.emplace_back(characters_[byte], static_cast<char>(byte));
    }
    std::sort(bytes_.begin(), bytes_.end());
  }

  static constexpr uint8_t kLost = 0x1a;

  bool sloppy() const { return holes_ == Holes::kSloppy; }
  char32_t character(uint32_t byte) const { return characters_[byte]; }

  /// Nothing if a character is not in this encoding.
  std::optional<std::string> encode(std::u32string_view text) const {
    std::string bytes;
    bytes.reserve(text.size());
    for (const char32_t c : text) {
      if (c < 0x80 && c != kLost) {
        bytes.push_back(static_cast<char>(c));
        continue;
      }
      const auto found = std::lower_bound(bytes_.begin(), bytes_.end(), std::pair(c, '\x80'));
      if (found == bytes_.end() || found->first != c) return std::nullopt;
      bytes.push_back(found->second);
    }
    return bytes;
  }

 private:
  Holes holes_;
  std::array<char32_t, 256> characters_;
  std::vector<std::pair<char32_t, char>> bytes_;  // of what is not ASCII, sorted
};

enum : size_t { kLatin1, kWindows1252, kMacRoman = 8 };

/// In the order in which they are tried. The first seven are the usual ways to misread UTF-8.
constexpr size_t kUsual = 7;
std::span<const OneByteEncoding> encodings() {
  static const std::array<OneByteEncoding, 10> all = {{
      {U"", Holes::kNone},                                    // Latin-1
      {U"€?‚ƒ„…†‡ˆ‰Š‹Œ?Ž??‘’“”•–—˜™š›œ?žŸ", Holes::kSloppy},  // Windows-1252
      {U"ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—?™љ›њќћџ?ЎўЈ?Ґ??Ё?Є????Ї??Ііґ???ё№є?јЅѕї"
       U"АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмнопрстуфхцчшщъыьэюя",
       Holes::kSloppy},  // Windows-1251
      {U"€?‚?„…†‡?‰Š‹ŚŤŽŹ?‘’“”•–—?™š›śťžź?ˇ˘Ł?Ą????Ş????Ż??˛ł?????ąş?Ľ˝ľż"
       U"Ŕ??Ă?ĹĆ?Č?Ę?Ě??ĎĐŃŇ??Ő??ŘŮ?Ű??Ţ?ŕ??ă?ĺć?č?ę?ě??ďđńň??ő??řů?ű??ţ˙",
       Holes::kSloppy},  // Windows-1250
      {U"€?‚ƒ„…†‡?‰?‹?????‘’“”•–—?™?›?????΅Ά????????????―????΄???ΈΉΊ?Ό?ΎΏ"
       U"ΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡ?ΣΤΥΦΧΨΩΪΫάέήίΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώ",
       Holes::kSloppy},  // Windows-1253
      {U"€?‚ƒ„…†‡ˆ‰Š‹Œ????‘’“”•–—˜™š›œ??Ÿ????????????????????????????????"
       U"????????????????Ğ????????????İŞ?????????????????ğ????????????ış",
       Holes::kSloppy},  // Windows-1254
      {U"€?‚?„…†‡?‰?‹?¨ˇ¸?‘’“”•–—?™?›?¯˛?????????Ø?Ŗ????Æ????????ø?ŗ????æ"
       U"ĄĮĀĆ??ĘĒČ?ŹĖĢĶĪĻŠŃŅ?Ō???ŲŁŚŪ?ŻŽ?ąįāć??ęēč?źėģķīļšńņ?ō???ųłśū?żž˙",
       Holes::kSloppy},  // Windows-1257
      {U"?????????????????????????????????Ą˘Ł?ĽŚ??ŠŞŤŹ?ŽŻ?ą˛ł?ľśˇ?šşťź˝žż"
       U"Ŕ??Ă?ĹĆ?Č?Ę?Ě??ĎĐŃŇ??Ő??ŘŮ?Ű??Ţ?ŕ??ă?ĺć?č?ę?ě??ďđńň??ő??řů?ű??ţ˙",
       Holes::kNone},  // ISO 8859-2
      {U"ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü†°??§•¶ß®?™´¨≠ÆØ∞?≤≥¥?∂∑∏π∫ªºΩæø"
       U"¿¡¬√ƒ≈∆«»…\u00a0ÀÃÕŒœ–—“”‘’÷◊ÿŸ\u2044€‹›ﬁﬂ‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\uf8ffÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ",
       Holes::kNone},  // Mac OS Roman
      {U"ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐"
       U"└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0",
       Holes::kNone},  // code page 437
  }};
  return all;
}

// --- Bytes that were damaged after they were misread --------------------------------------------

/// A sequence of bytes; each class is pairs of its first and last byte. Empty classes end it.
struct BytePattern {
  std::array<std::string_view, 6> classes;

  /// Bytes at `at` that match, else 0.
  size_t length_at(std::string_view bytes, size_t at) const {
    size_t length = 0;
    for (const std::string_view ranges : classes) {
      if (ranges.empty()) break;
      if (at + length == bytes.size() || !is_in(bytes[at + length], ranges)) return 0;
      ++length;
    }
    return length;
  }

 private:
  static bool is_in(char byte, std::string_view ranges) {
    const auto value = [](char c) { return static_cast<unsigned char>(c); };
    for (size_t i = 0; i < ranges.size(); i += 2) {
      if (value(byte) >= value(ranges[i]) && value(byte) <= value(ranges[i + 1])) return true;
    }
    return false;
  }
};

constexpr std::string_view kTail = "\x80\xbf";
constexpr std::string_view kLostOrQuestion = "\x1a\x1a??";
constexpr std::string_view kLostOrTail = "\x1a\x1a\x80\xbf";
constexpr std::string_view kHighSurrogate = "\xa0\xaf", kLowSurrogate = "\xb0\xbf";
constexpr std::string_view kPlainTail = "\x80\x84\x86\x9f\xa1\xbf";

/// UTF-8 in which a byte A0, a space to Windows, became the space of ASCII.
constexpr BytePattern kSpaced[] = {
    {{"\xc2\xc3\xc5\xc5\xce\xce\xd0\xd0\xd9\xd9", "  "}},
    {{"\xe2\xe3", "  ", kPlainTail}},
    {{"\xe0\xe3", kPlainTail, "  "}},
    {{"\xf0\xf0", "  ", kTail, kTail}},
    {{"\xf0\xf0", kTail, "  ", kTail}},
    {{"\xf0\xf0", kTail, kTail, "  "}},
};

/// UTF-8, with surrogates too, in which a byte was lost.
constexpr BytePattern kLossy[] = {
    {{"\xc2\xdf", "\x1a\x1a"}},
    {{"\xc2\xc3", "??"}},
    {{"\xed\xed", kHighSurrogate, kLostOrQuestion, "\xed\xed", kLowSurrogate,
      "\x1a\x1a??\x80\xbf"}},
    {{"\xed\xed", kHighSurrogate, "\x1a\x1a??\x80\xbf", "\xed\xed", kLowSurrogate,
      kLostOrQuestion}},
    {{"\xe0\xef", kLostOrQuestion, kLostOrTail}},
    {{"\xe0\xef", kLostOrTail, kLostOrQuestion}},
    {{"\xf0\xf4", kLostOrQuestion, kLostOrTail, kLostOrTail}},
    {{"\xf0\xf4", kLostOrTail, kLostOrQuestion, kLostOrTail}},
    {{"\xf0\xf4", kLostOrTail, kLostOrTail, kLostOrQuestion}},
    {{"\x1a\x1a"}},
};

/// Every match, from left to right, replaced by what `replacement` makes of it.
template <typename Replacement>
std::string replace_matches(std::string_view bytes, std::span<const BytePattern> patterns,
                            const Replacement& replacement) {
  std::string out;
  for (size_t at = 0; at < bytes.size();) {
    size_t length = 0;
    for (const BytePattern& pattern : patterns) {
      if ((length = pattern.length_at(bytes, at)) > 0) break;
    }
    if (length > 0) {
      out += replacement(std::string(bytes.substr(at, length)));
    } else {
      out.push_back(bytes[at]);
    }
    at += std::max<size_t>(length, 1);
  }
  return out;
}

/// "à" as a word of its own keeps the space behind it, but not in Portuguese's "às" and "àquele".
std::string restore_lone_a_grave(std::string_view bytes) {
  std::string out;
  for (size_t at = 0; at < bytes.size(); ++at) {
    out.push_back(bytes[at]);
    if (!bytes.substr(at).starts_with("\xc3 ")) continue;
    const std::string_view rest = bytes.substr(at + 2);
    const auto continues = [&](std::string_view with) { return rest.starts_with(with); };
    if (!continues(" ") && !continues("quele") && !continues("quela") && !continues("quilo") &&
        !continues("s ")) {
      out.push_back('\xa0');
    }
  }
  return out;
}

std::string restore_a0(std::string_view bytes) {
  return replace_matches(restore_lone_a_grave(bytes), kSpaced, [](std::string match) {
    std::replace(match.begin(), match.end(), ' ', '\xa0');
    return match;
  });
}

/// The character of UTF-8 at `at`, which moves behind it; nothing if there is none.
std::optional<char32_t> next_character(std::string_view bytes, size_t& at) {
  const unsigned char lead = static_cast<unsigned char>(bytes[at]);
  const size_t length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  if (length == 0 || lead > 0xf4 || at + length > bytes.size()) return std::nullopt;
  char32_t character = length == 1 ? lead : lead & (0x7fu >> length);
  for (size_t i = 1; i < length; ++i) {
    const unsigned char tail = static_cast<unsigned char>(bytes[at + i]);
    if ((tail & 0xc0) != 0x80) return std::nullopt;
    character = character << 6 | (tail & 0x3fu);
  }
  const bool overlong = (length == 3 && character < 0x800) || (length == 4 && character < 0x10000);
  const bool surrogate = character >= 0xd800 && character <= 0xdfff;
  if (overlong || surrogate || character > 0x10ffff) return std::nullopt;
  at += length;
  return character;
}

/// Nothing if the bytes are no UTF-8. Pairs of surrogates and the two bytes that Java writes for
/// U+0000 are taken too.
std::optional<std::u32string> decode_utf8(std::string_view bytes) {
  static constexpr BytePattern kSurrogates = {
      {"\xed\xed", kHighSurrogate, kTail, "\xed\xed", kLowSurrogate, kTail}};
  std::u32string text;
  text.reserve(bytes.size());
  for (size_t at = 0; at < bytes.size();) {
    if (kSurrogates.length_at(bytes, at) > 0) {
      const auto bits = [&](size_t i, uint32_t mask) {
        return static_cast<unsigned char>(bytes[at + i]) & mask;
      };
      text.push_back((bits(1, 0xf) << 16) + (bits(2, 0x3f) << 10) + (bits(4, 0xf) << 6) +
                     bits(5, 0x3f) + 0x10000);
      at += 6;
    } else if (bytes.substr(at).starts_with("\xc0\x80")) {
      text.push_back(0);
      at += 2;
    } else {
      const std::optional<char32_t> character = next_character(bytes, at);
      if (!character) return std::nullopt;
      text.push_back(*character);
    }
  }
  return text;
}

// --- Parts of a text that are wrongly decoded ---------------------------------------------------

/// What a character may be in UTF-8 read by one of the usual encodings, as bits.
enum Role : uint8_t { kFirstOf2 = 1, kFirstOf3 = 2, kFirstOf4 = 4, kContinues = 8, kTelling = 16 };

uint8_t roles_of(char32_t c) {
  static const std::vector<uint8_t> table = [] {
    std::vector<uint8_t> roles(0x2200);
    const auto give = [&](Role role, uint32_t first_byte, uint32_t last_byte) {
      for (const OneByteEncoding& encoding : encodings().first(kUsual)) {
        for (uint32_t byte = first_byte; byte <= last_byte; ++byte) {
          roles[encoding.character(byte)] |= role;
        }
      }
    };
    give(kFirstOf2, 0xc2, 0xdf);
    give(kFirstOf3, 0xe0, 0xef);
    give(kFirstOf4, 0xf0, 0xf0);
    give(kFirstOf4, 0xf3, 0xf3);
    give(kContinues, 0x80, 0xbf);
    give(kTelling, 0x80, 0xbf);
    roles[U' '] |= kContinues;
    for (const char32_t quote : std::u32string_view(U"–—―‘’‚“”„•…")) {
      roles[quote] &= static_cast<uint8_t>(~kTelling);
    }
    return roles;
  }();
  return c < table.size() ? table[c] : uint8_t{0};
}

/// End of the run of what may be misread UTF-8 sequences that begins at `at`; `at` if none does.
size_t misread_end(std::u32string_view text, size_t at) {
  const auto fits = [&](Role first, size_t length) {
    if (at + length > text.size() || !(roles_of(text[at]) & first)) return false;
    for (size_t i = 1; i < length; ++i) {
      if (!(roles_of(text[at + i]) & kContinues)) return false;
    }
    return true;
  };
  for (;;) {
    if (fits(kFirstOf2, 2)) {
      at += 2;
    } else if (fits(kFirstOf3, 3)) {
      at += 3;
    } else if (fits(kFirstOf4, 4)) {
      at += 4;
    } else {
      return at;
    }
  }
}

/// Repairs the parts that look like misread UTF-8 by themselves.
std::u32string repair_parts(std::u32string_view text) {
  std::u32string out;
  for (size_t at = 0; at < text.size();) {
    // Not in the middle of a longer garble, which this would only make worse.
    const bool may_begin = at == 0 || !(roles_of(text[at - 1]) & kTelling);
    const size_t end = may_begin ? misread_end(text, at) : at;
    if (end == at) {
      out.push_back(text[at++]);
      continue;
    }
    const std::u32string_view part = text.substr(at, end - at);
    if (part.size() < text.size() && looks_wrongly_decoded(part)) {
      out += repair_encoding(std::u32string(part));
    } else {
      out += part;
    }
    at = end;
  }
  return out;
}

// --- All of it ----------------------------------------------------------------------------------

bool is_c1_control(char32_t c) { return c >= 0x80 && c <= 0x9f; }

/// The text with one layer of wrong decoding undone.
std::u32string repair_once(const std::u32string& text) {
  const auto is_ascii = [](char32_t c) { return c < 0x80; };
  if (std::all_of(text.begin(), text.end(), is_ascii) || !looks_wrongly_decoded(text)) return text;
  for (size_t i = 0; i < encodings().size(); ++i) {
    const OneByteEncoding& encoding = encodings()[i];
    std::optional<std::string> bytes = encoding.encode(text);
    if (!bytes) continue;
    // In Mac OS Roman a dash before a space would look like it.
    if (i != kMacRoman) bytes = restore_a0(*bytes);
    if (encoding.sloppy()) {
      bytes = replace_matches(*bytes, kLossy, [](const std::string&) { return "\xef\xbf\xbd"; });
    }
    if (auto decoded = decode_utf8(*bytes)) return *decoded;
  }
  std::u32string repaired = repair_parts(text);
  if (repaired != text) return repaired;
  for (char32_t& c : repaired) {
    if (is_c1_control(c)) c = windows_1252(c);
  }
  return repaired;
}

}  // namespace

char32_t windows_1252(char32_t c1_control) {
  return encodings()[kWindows1252].character(c1_control);
}

std::u32string repair_encoding(std::u32string text) {
  for (;;) {
    std::u32string repaired = repair_once(text);
    if (repaired == text) return text;
    text = std::move(repaired);
  }
}

}  // namespace clip
