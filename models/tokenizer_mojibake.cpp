// Which characters beside each other betray text that was decoded by a wrong encoding ("Ã©", "â€™").
// The kinds of characters and the suspect sequences are those of ftfy 6.3 (ftfy/badness.py).
#include <unicode/uchar.h>

#include <bit>
#include <iterator>
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

/// Suspect sequences of two places at least; empty places end them. Two more are in
/// looks_wrongly_decoded().
constexpr Place kSuspect[][kMostPlaces] = {
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

/// Which of kSuspect have this character at their first place, and which at their second: a bit for
/// each.
struct Candidates {
  uint64_t first = 0, second = 0;
};
static_assert(std::size(kSuspect) <= 64);

bool is_at(const Place& place, char32_t c, uint32_t kinds) {
  return (kinds & place.kinds) != 0 || place.characters.find(c) != place.characters.npos;
}

/// Whether the places of `sequence` from the third on match `rest`.
bool continues(const Place (&sequence)[kMostPlaces], std::u32string_view rest) {
  for (size_t i = 2; i < kMostPlaces; ++i) {
    if (sequence[i].kinds == 0 && sequence[i].characters.empty()) return true;
    if (i - 2 == rest.size() || !is_at(sequence[i], rest[i - 2], kinds_of(rest[i - 2])))
      return false;
  }
  return true;
}

Candidates find_candidates(char32_t c) {
  const uint32_t kinds = kinds_of(c);
  Candidates found;
  for (size_t i = 0; i < std::size(kSuspect); ++i) {
    const uint64_t bit = uint64_t{1} << i;
    if (is_at(kSuspect[i][0], c, kinds)) found.first |= bit;
    if (is_at(kSuspect[i][1], c, kinds)) found.second |= bit;
  }
  return found;
}

Candidates candidates_of(char32_t c) {
  static const std::vector<Candidates> table = [] {
    std::vector<Candidates> all;
    for (char32_t each = 0; each < kEndOfTable; ++each) all.push_back(find_candidates(each));
    return all;
  }();
  return c < table.size() ? table[c] : find_candidates(c);
}

}  // namespace

bool looks_wrongly_decoded(std::u32string_view text) {
  if (text.starts_with(U"Ã ") || text.starts_with(U"Â ")) return true;
  uint64_t begun = 0;  // sequences that the character before begins
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] >= 0x80 && text[at] <= 0x9f) return true;
    const Candidates here = candidates_of(text[at]);
    for (uint64_t bits = begun & here.second; bits != 0; bits &= bits - 1) {
      if (continues(kSuspect[std::countr_zero(bits)], text.substr(at + 1))) return true;
    }
    begun = here.first;
  }
  return false;
}

}  // namespace clip
