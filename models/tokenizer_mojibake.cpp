// Which characters beside each other betray text that was decoded by a wrong encoding ("Ã©", "â€™").
// The kinds of characters and the suspect sequences are those of ftfy 6.3 (ftfy/badness.py).
#include <unicode/uchar.h>

#include <algorithm>
#include <vector>

#include "models/tokenizer_repair.h"

namespace clip {
namespace {

/// Kinds of characters, as bits.
enum Kind : uint32_t {
  kCommon = 1 << 0,  // found in all kinds of text
  kC1 = 1 << 1,      // controls U+0080 to U+009F
  kBad = 1 << 2,     // hardly ever meant
  kLaw = 1 << 3,
  kCurrency = 1 << 4,
  kOpening = 1 << 5,  // begins a quotation, a list, a sentence
  kClosing = 1 << 6,
  kNumeric = 1 << 7,
  kFace = 1 << 8,  // letters that emoticons are made of
  kUpperAccented = 1 << 9,
  kLowerAccented = 1 << 10,
  kUpperCommon = 1 << 11,  // Greek and Cyrillic: they end words
  kLowerCommon = 1 << 12,
  kBox = 1 << 13,
  kAsciiLower = 1 << 14,
  kAsciiUpper = 1 << 15,
  kSpace = 1 << 16,
  kWord = 1 << 17,      // letters, numbers, "_"
  kNotAscii = 1 << 18,  // no ASCII letter
  kInLine = 1 << 19,    // no line break
};
constexpr uint32_t kAscii = kAsciiLower | kAsciiUpper;
constexpr uint32_t kAccented = kUpperAccented | kLowerAccented;
constexpr uint32_t kNeighbours =
    kAccented | kBox | kOpening | kClosing | kCurrency | kNumeric | kLaw;
constexpr uint32_t kBetweenCapitals = kC1 | kBad | kOpening | kClosing | kCurrency;
constexpr uint32_t kInArabic = kCommon | kCurrency | kBad | kNumeric | kOpening;

/// Characters of each kind that is no matter of Unicode's categories; "a-e" is a range.
struct Members {
  uint32_t kind;
  std::u32string_view characters;
};
constexpr Members kMembers[] = {
    {kCommon, U"\u00a0\u00ad´·–—―’…"},
    {kC1, U"\u0080-\u009f"},
    {kBad, U"¤¦¨ª¬¯¸ºƒˆˇ˘˛˜†‡‰⌐◊\ufffd"},
    {kLaw, U"§¶"},
    {kCurrency, U"¢£¥₧€"},
    {kOpening, U"¡©«¿΄΅‘‚“„•‹\uf8ff"},
    {kClosing, U"®»˝”›™"},
    {kNumeric, U"±²³µ¹¼½¾×÷\u2044№∂∆∏∑√∞∩∫≈≠≡≤≥"},
    {kFace, U"°Ò-ÖÙ-Üò-öø-üŌŐŪŲ"},
    {kUpperAccented, U"À-ÑØÜÝĀĂĄĆČĎĐĒĖĘĚĞĢĪİĶĹĻĽŁŃŅŇŒŘŚŞŠŢŤŮŰŸŹŻŽҐ"},
    {kLowerAccented, U"ß-ñüāăąćčďđēėęěğģīįķĺļľłœŕśşšťźżžґﬁﬂ"},
    {kUpperCommon, U"ÞΆΈΉΊΌΎΏΑ-ΫЁ-Я"},
    {kLowerCommon, U"ά-ωа-џ"},
    {kBox, U"│┌┐┘├┤┬┼═-╬▀▄█▌▐-▓"},
    {kAsciiLower, U"a-z"},
    {kAsciiUpper, U"A-Z"},
};

/// One place of a suspect sequence: a character of these kinds, or one of these.
struct Place {
  uint32_t kinds = 0;
  std::u32string_view characters = {};
};
constexpr size_t kMostPlaces = 7;

/// Suspect sequences; empty places end them.
constexpr Place kSuspect[][kMostPlaces] = {
    {{kC1}},
    {{kNeighbours | kBad}, {kBad}},
    {{kAscii}, {kLowerCommon | kUpperCommon}, {kBad}},
    {{kBad}, {kNeighbours}},
    {{kLowerAccented | kLowerCommon | kBox | kClosing | kCurrency | kNumeric}, {kUpperAccented}},
    {{kBox | kClosing | kCurrency | kNumeric}, {kLowerAccented}},
    {{kLowerAccented | kBox | kClosing}, {kCurrency}},
    {{kSpace}, {kUpperAccented}, {kCurrency}},
    {{kUpperAccented | kBox}, {kNumeric | kLaw}},
    {{kAccented | kBox | kCurrency | kClosing}, {kOpening}, {kNumeric}},
    {{kAccented | kCurrency | kNumeric | kBox | kLaw}, {kClosing}, {kOpening}},
    {{kCurrency | kNumeric | kBox}, {kOpening}},
    {{kAsciiLower}, {kUpperAccented}, {kOpening | kCurrency}},
    {{kBox}, {kFace}},
    {{kAccented | kCurrency | kNumeric | kOpening | kClosing | kLaw}, {kBox}},
    {{kBox}, {kClosing}},
    {{kAccented}, {kOpening | kClosing}, {kWord}},
    {{0, U"Œœ"}, {kNotAscii}},
    {{kUpperAccented}, {0, U"°"}},
    // Windows-1252, what is left of it.
    {{0, U"ÂÃÎÐ"}, {kOpening | kClosing, U"€œŠš¢£Ÿž\u00a0\u00ad®©°·»–—´"}},
    {{0, U"×"}, {0, U"²³"}},
    {{0, U"ØÙ"}, {kInArabic, U"ŸŠ®°µ»"}, {0, U"ØÙ"}, {kInArabic, U"ŸŠ®°µ»"}},
    {{0, U"à"}, {0, U"²µ¹¼½¾"}},
    {{0, U"Ã"}, {0, U"\u00a0¡"}},
    {{kAsciiLower}, {0, U"ÃÂ"}, {0, U" "}},
    {{kAsciiLower}, {kSpace}, {0, U"ÃÂ"}, {0, U" "}},
    {{kAsciiLower | kClosing, U".,?!"}, {0, U"Â"}, {kOpening | kClosing, U" "}},
    // Mac OS Roman.
    {{0, U"√"}, {0, U"±∂†≠®™´≤≥¥µø"}},
    {{0, U"≈"}, {0, U"°¢"}},
    {{0, U"‚"}, {0, U"Ä"}, {0, U"ìîïòôúùû†°¢π"}},
    {{0, U"‚"}, {0, U"âó"}, {0, U"àä°ê"}},
    // Windows-1251, 1253, 1257.
    {{0, U"в"}, {0, U"Ђ"}},
    {{0, U"ВГРС"}, {kBetweenCapitals, U"°µ"}, {0, U"ВГРС"}},
    {{0, U"Г"}, {0, U"ў"}, {0, U"В"}, {0, U"Ђ"}, {0, U"В"}, {kInLine}, {kAscii, U" "}},
    {{0, U"β"}, {0, U"€"}, {0, U"™\u00a0Ά\u00ad®°"}},
    {{0, U"ΒΓΞΟ"}, {kBetweenCapitals, U"°"}, {0, U"ΒΓΞΟ"}},
    {{0, U"ā"}, {0, U"€"}},
};

constexpr char32_t kEndOfTable = 0x2600;  // behind it only what kinds_of() names

/// Kinds by character, of those below kEndOfTable that kMembers names.
const std::vector<uint32_t>& member_kinds() {
  static const std::vector<uint32_t> table = [] {
    std::vector<uint32_t> kinds(kEndOfTable);
    for (const auto& [kind, characters] : kMembers) {
      for (size_t i = 0; i < characters.size(); ++i) {
        const bool range = i + 2 < characters.size() && characters[i + 1] == U'-';
        const char32_t last = characters[range ? i + 2 : i];
        for (char32_t c = characters[i]; c <= last && c < kEndOfTable; ++c) kinds[c] |= kind;
        if (range) i += 2;
      }
    }
    return kinds;
  }();
  return table;
}

uint32_t kinds_of(char32_t c) {
  uint32_t kinds = 0;
  if (c < kEndOfTable) {
    kinds = member_kinds()[c];
  } else if (c == 0xfb01 || c == 0xfb02) {
    kinds = kLowerAccented;
  } else if (c == 0xf8ff) {
    kinds = kOpening;
  } else if (c == 0xfffd) {
    kinds = kBad;
  }
  const auto point = static_cast<UChar32>(c);
  if (u_isUWhiteSpace(point) || (c >= 0x1c && c <= 0x1f)) kinds |= kSpace;
  if ((U_GET_GC_MASK(point) & (U_GC_L_MASK | U_GC_N_MASK)) || c == U'_') kinds |= kWord;
  if (!(kinds & kAscii)) kinds |= kNotAscii;
  if (c != U'\n') kinds |= kInLine;
  return kinds;
}

bool is_at(char32_t c, uint32_t kinds, const Place& place) {
  return (kinds & place.kinds) != 0 || place.characters.find(c) != place.characters.npos;
}

}  // namespace

bool looks_wrongly_decoded(std::u32string_view text) {
  if (text.starts_with(U"Ã ") || text.starts_with(U"Â ")) return true;
  std::vector<uint32_t> kinds;
  kinds.reserve(text.size());
  for (const char32_t c : text) kinds.push_back(kinds_of(c));
  const auto stands_at = [&](size_t at, const Place(&sequence)[kMostPlaces]) {
    for (const Place& place : sequence) {
      if (place.kinds == 0 && place.characters.empty()) return true;
      if (at == text.size() || !is_at(text[at], kinds[at], place)) return false;
      ++at;
    }
    return true;
  };
  for (size_t at = 0; at < text.size(); ++at) {
    // None begins with three of ASCII.
    const std::u32string_view three = text.substr(at, 3);
    if (std::all_of(three.begin(), three.end(), [](char32_t c) { return c < 0x80; })) continue;
    for (const auto& sequence : kSuspect) {
      if (stands_at(at, sequence)) return true;
    }
  }
  return false;
}

}  // namespace clip
