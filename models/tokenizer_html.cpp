// References to characters in HTML ("&amp;", "&#233;"), as Python's html.unescape and ftfy read
// them.
#include <unicode/locid.h>

#include <string>
#include <string_view>
#include <unordered_map>

#include "models/tokenizer_text.h"

namespace clip {
namespace {

struct Entity {
  std::string_view name;
  UChar32 character;
};

// Names that old pages write without ";" too: HTML 4's for Latin-1, and six in capitals.
// clang-format off
constexpr Entity kOldNames[] = {
  {"QUOT", 0x22}, {"quot", 0x22}, {"AMP", 0x26}, {"amp", 0x26}, {"LT", 0x3c}, {"lt", 0x3c},
  {"GT", 0x3e}, {"gt", 0x3e}, {"nbsp", 0xa0}, {"iexcl", 0xa1}, {"cent", 0xa2}, {"pound", 0xa3},
  {"curren", 0xa4}, {"yen", 0xa5}, {"brvbar", 0xa6}, {"sect", 0xa7}, {"uml", 0xa8}, {"COPY", 0xa9},
  {"copy", 0xa9}, {"ordf", 0xaa}, {"laquo", 0xab}, {"not", 0xac}, {"shy", 0xad}, {"REG", 0xae},
  {"reg", 0xae}, {"macr", 0xaf}, {"deg", 0xb0}, {"plusmn", 0xb1}, {"sup2", 0xb2}, {"sup3", 0xb3},
  {"acute", 0xb4}, {"micro", 0xb5}, {"para", 0xb6}, {"middot", 0xb7}, {"cedil", 0xb8},
  {"sup1", 0xb9}, {"ordm", 0xba}, {"raquo", 0xbb}, {"frac14", 0xbc}, {"frac12", 0xbd},
  {"frac34", 0xbe}, {"iquest", 0xbf}, {"Agrave", 0xc0}, {"Aacute", 0xc1}, {"Acirc", 0xc2},
  {"Atilde", 0xc3}, {"Auml", 0xc4}, {"Aring", 0xc5}, {"AElig", 0xc6}, {"Ccedil", 0xc7},
  {"Egrave", 0xc8}, {"Eacute", 0xc9}, {"Ecirc", 0xca}, {"Euml", 0xcb}, {"Igrave", 0xcc},
  {"Iacute", 0xcd}, {"Icirc", 0xce}, {"Iuml", 0xcf}, {"ETH", 0xd0}, {"Ntilde", 0xd1},
  {"Ograve", 0xd2}, {"Oacute", 0xd3}, {"Ocirc", 0xd4}, {"Otilde", 0xd5}, {"Ouml", 0xd6},
  {"times", 0xd7}, {"Oslash", 0xd8}, {"Ugrave", 0xd9}, {"Uacute", 0xda}, {"Ucirc", 0xdb},
  {"Uuml", 0xdc}, {"Yacute", 0xdd}, {"THORN", 0xde}, {"szlig", 0xdf}, {"agrave", 0xe0},
  {"aacute", 0xe1}, {"acirc", 0xe2}, {"atilde", 0xe3}, {"auml", 0xe4}, {"aring", 0xe5},
  {"aelig", 0xe6}, {"ccedil", 0xe7}, {"egrave", 0xe8}, {"eacute", 0xe9}, {"ecirc", 0xea},
  {"euml", 0xeb}, {"igrave", 0xec}, {"iacute", 0xed}, {"icirc", 0xee}, {"iuml", 0xef},
  {"eth", 0xf0}, {"ntilde", 0xf1}, {"ograve", 0xf2}, {"oacute", 0xf3}, {"ocirc", 0xf4},
  {"otilde", 0xf5}, {"ouml", 0xf6}, {"divide", 0xf7}, {"oslash", 0xf8}, {"ugrave", 0xf9},
  {"uacute", 0xfa}, {"ucirc", 0xfb}, {"uuml", 0xfc}, {"yacute", 0xfd}, {"thorn", 0xfe},
  {"yuml", 0xff},
};

// Names that need their ";".
constexpr Entity kNewNames[] = {
  {"Tab", 0x9}, {"NewLine", 0xa}, {"excl", 0x21}, {"num", 0x23}, {"dollar", 0x24},
  {"percnt", 0x25}, {"apos", 0x27}, {"lpar", 0x28}, {"rpar", 0x29}, {"ast", 0x2a},
  {"midast", 0x2a}, {"plus", 0x2b}, {"comma", 0x2c}, {"period", 0x2e}, {"sol", 0x2f},
  {"colon", 0x3a}, {"semi", 0x3b}, {"equals", 0x3d}, {"quest", 0x3f}, {"commat", 0x40},
  {"lbrack", 0x5b}, {"lsqb", 0x5b}, {"bsol", 0x5c}, {"rbrack", 0x5d}, {"rsqb", 0x5d},
  {"Hat", 0x5e}, {"UnderBar", 0x5f}, {"lowbar", 0x5f}, {"DiacriticalGrave", 0x60}, {"grave", 0x60},
  {"lbrace", 0x7b}, {"lcub", 0x7b}, {"VerticalLine", 0x7c}, {"verbar", 0x7c}, {"vert", 0x7c},
  {"rbrace", 0x7d}, {"rcub", 0x7d}, {"NonBreakingSpace", 0xa0}, {"Dot", 0xa8}, {"DoubleDot", 0xa8},
  {"die", 0xa8}, {"circledR", 0xae}, {"strns", 0xaf}, {"PlusMinus", 0xb1}, {"pm", 0xb1},
  {"DiacriticalAcute", 0xb4}, {"CenterDot", 0xb7}, {"centerdot", 0xb7}, {"Cedilla", 0xb8},
  {"half", 0xbd}, {"angst", 0xc5}, {"div", 0xf7}, {"Amacr", 0x100}, {"amacr", 0x101},
  {"Abreve", 0x102}, {"abreve", 0x103}, {"Aogon", 0x104}, {"aogon", 0x105}, {"Cacute", 0x106},
  {"cacute", 0x107}, {"Ccirc", 0x108}, {"ccirc", 0x109}, {"Cdot", 0x10a}, {"cdot", 0x10b},
  {"Ccaron", 0x10c}, {"ccaron", 0x10d}, {"Dcaron", 0x10e}, {"dcaron", 0x10f}, {"Dstrok", 0x110},
  {"dstrok", 0x111}, {"Emacr", 0x112}, {"emacr", 0x113}, {"Edot", 0x116}, {"edot", 0x117},
  {"Eogon", 0x118}, {"eogon", 0x119}, {"Ecaron", 0x11a}, {"ecaron", 0x11b}, {"Gcirc", 0x11c},
  {"gcirc", 0x11d}, {"Gbreve", 0x11e}, {"gbreve", 0x11f}, {"Gdot", 0x120}, {"gdot", 0x121},
  {"Gcedil", 0x122}, {"Hcirc", 0x124}, {"hcirc", 0x125}, {"Hstrok", 0x126}, {"hstrok", 0x127},
  {"Itilde", 0x128}, {"itilde", 0x129}, {"Imacr", 0x12a}, {"imacr", 0x12b}, {"Iogon", 0x12e},
  {"iogon", 0x12f}, {"Idot", 0x130}, {"imath", 0x131}, {"inodot", 0x131}, {"IJlig", 0x132},
  {"ijlig", 0x133}, {"Jcirc", 0x134}, {"jcirc", 0x135}, {"Kcedil", 0x136}, {"kcedil", 0x137},
  {"kgreen", 0x138}, {"Lacute", 0x139}, {"lacute", 0x13a}, {"Lcedil", 0x13b}, {"lcedil", 0x13c},
  {"Lcaron", 0x13d}, {"lcaron", 0x13e}, {"Lmidot", 0x13f}, {"lmidot", 0x140}, {"Lstrok", 0x141},
  {"lstrok", 0x142}, {"Nacute", 0x143}, {"nacute", 0x144}, {"Ncedil", 0x145}, {"ncedil", 0x146},
  {"Ncaron", 0x147}, {"ncaron", 0x148}, {"napos", 0x149}, {"ENG", 0x14a}, {"eng", 0x14b},
  {"Omacr", 0x14c}, {"omacr", 0x14d}, {"Odblac", 0x150}, {"odblac", 0x151}, {"OElig", 0x152},
  {"oelig", 0x153}, {"Racute", 0x154}, {"racute", 0x155}, {"Rcedil", 0x156}, {"rcedil", 0x157},
  {"Rcaron", 0x158}, {"rcaron", 0x159}, {"Sacute", 0x15a}, {"sacute", 0x15b}, {"Scirc", 0x15c},
  {"scirc", 0x15d}, {"Scedil", 0x15e}, {"scedil", 0x15f}, {"Scaron", 0x160}, {"scaron", 0x161},
  {"Tcedil", 0x162}, {"tcedil", 0x163}, {"Tcaron", 0x164}, {"tcaron", 0x165}, {"Tstrok", 0x166},
  {"tstrok", 0x167}, {"Utilde", 0x168}, {"utilde", 0x169}, {"Umacr", 0x16a}, {"umacr", 0x16b},
  {"Ubreve", 0x16c}, {"ubreve", 0x16d}, {"Uring", 0x16e}, {"uring", 0x16f}, {"Udblac", 0x170},
  {"udblac", 0x171}, {"Uogon", 0x172}, {"uogon", 0x173}, {"Wcirc", 0x174}, {"wcirc", 0x175},
  {"Ycirc", 0x176}, {"ycirc", 0x177}, {"Yuml", 0x178}, {"Zacute", 0x179}, {"zacute", 0x17a},
  {"Zdot", 0x17b}, {"zdot", 0x17c}, {"Zcaron", 0x17d}, {"zcaron", 0x17e}, {"fnof", 0x192},
  {"circ", 0x2c6}, {"caron", 0x2c7}, {"breve", 0x2d8}, {"dot", 0x2d9}, {"ring", 0x2da},
  {"ogon", 0x2db}, {"tilde", 0x2dc}, {"dblac", 0x2dd}, {"Alpha", 0x391}, {"Beta", 0x392},
  {"Gamma", 0x393}, {"Delta", 0x394}, {"Epsilon", 0x395}, {"Zeta", 0x396}, {"Eta", 0x397},
  {"Theta", 0x398}, {"Iota", 0x399}, {"Kappa", 0x39a}, {"Lambda", 0x39b}, {"Mu", 0x39c},
  {"Nu", 0x39d}, {"Xi", 0x39e}, {"Omicron", 0x39f}, {"Pi", 0x3a0}, {"Rho", 0x3a1},
  {"Sigma", 0x3a3}, {"Tau", 0x3a4}, {"Upsilon", 0x3a5}, {"Phi", 0x3a6}, {"Chi", 0x3a7},
  {"Psi", 0x3a8}, {"Omega", 0x3a9}, {"ohm", 0x3a9}, {"alpha", 0x3b1}, {"beta", 0x3b2},
  {"gamma", 0x3b3}, {"delta", 0x3b4}, {"epsilon", 0x3b5}, {"zeta", 0x3b6}, {"eta", 0x3b7},
  {"theta", 0x3b8}, {"iota", 0x3b9}, {"kappa", 0x3ba}, {"lambda", 0x3bb}, {"mu", 0x3bc},
  {"nu", 0x3bd}, {"xi", 0x3be}, {"omicron", 0x3bf}, {"pi", 0x3c0}, {"rho", 0x3c1},
  {"sigmaf", 0x3c2}, {"sigma", 0x3c3}, {"tau", 0x3c4}, {"upsilon", 0x3c5}, {"phi", 0x3c6},
  {"chi", 0x3c7}, {"psi", 0x3c8}, {"omega", 0x3c9}, {"thetasym", 0x3d1}, {"upsih", 0x3d2},
  {"piv", 0x3d6}, {"ensp", 0x2002}, {"emsp", 0x2003}, {"emsp13", 0x2004}, {"emsp14", 0x2005},
  {"numsp", 0x2007}, {"puncsp", 0x2008}, {"thinsp", 0x2009}, {"hairsp", 0x200a}, {"zwnj", 0x200c},
  {"zwj", 0x200d}, {"lrm", 0x200e}, {"rlm", 0x200f}, {"dash", 0x2010}, {"hyphen", 0x2010},
  {"ndash", 0x2013}, {"mdash", 0x2014}, {"horbar", 0x2015}, {"lsquo", 0x2018}, {"rsquo", 0x2019},
  {"rsquor", 0x2019}, {"lsquor", 0x201a}, {"sbquo", 0x201a}, {"ldquo", 0x201c}, {"rdquo", 0x201d},
  {"rdquor", 0x201d}, {"bdquo", 0x201e}, {"ldquor", 0x201e}, {"dagger", 0x2020},
  {"Dagger", 0x2021}, {"bull", 0x2022}, {"bullet", 0x2022}, {"nldr", 0x2025}, {"hellip", 0x2026},
  {"mldr", 0x2026}, {"permil", 0x2030}, {"prime", 0x2032}, {"Prime", 0x2033}, {"lsaquo", 0x2039},
  {"rsaquo", 0x203a}, {"oline", 0x203e}, {"frasl", 0x2044}, {"euro", 0x20ac}, {"incare", 0x2105},
  {"image", 0x2111}, {"numero", 0x2116}, {"weierp", 0x2118}, {"real", 0x211c},
  {"rx", 0x211e}, {"TRADE", 0x2122}, {"trade", 0x2122}, {"alefsym", 0x2135}, {"frac13", 0x2153},
  {"frac23", 0x2154}, {"frac15", 0x2155}, {"frac25", 0x2156}, {"frac35", 0x2157},
  {"frac45", 0x2158}, {"frac16", 0x2159}, {"frac56", 0x215a}, {"frac18", 0x215b},
  {"frac38", 0x215c}, {"frac58", 0x215d}, {"frac78", 0x215e}, {"larr", 0x2190}, {"uarr", 0x2191},
  {"rarr", 0x2192}, {"darr", 0x2193}, {"harr", 0x2194}, {"larrhk", 0x21a9}, {"crarr", 0x21b5},
  {"lArr", 0x21d0}, {"uArr", 0x21d1}, {"rArr", 0x21d2}, {"dArr", 0x21d3}, {"hArr", 0x21d4},
  {"forall", 0x2200}, {"part", 0x2202}, {"exist", 0x2203}, {"empty", 0x2205}, {"nabla", 0x2207},
  {"isin", 0x2208}, {"notin", 0x2209}, {"ni", 0x220b}, {"prod", 0x220f}, {"sum", 0x2211},
  {"minus", 0x2212}, {"lowast", 0x2217}, {"radic", 0x221a}, {"prop", 0x221d}, {"infin", 0x221e},
  {"ang", 0x2220}, {"and", 0x2227}, {"or", 0x2228}, {"cap", 0x2229}, {"cup", 0x222a},
  {"int", 0x222b}, {"there4", 0x2234}, {"sim", 0x223c}, {"cong", 0x2245}, {"approx", 0x2248},
  {"asymp", 0x2248}, {"thickapprox", 0x2248}, {"ne", 0x2260}, {"equiv", 0x2261}, {"le", 0x2264},
  {"leq", 0x2264}, {"ge", 0x2265}, {"geq", 0x2265}, {"sub", 0x2282}, {"sup", 0x2283},
  {"nsub", 0x2284}, {"sube", 0x2286}, {"supe", 0x2287}, {"oplus", 0x2295}, {"otimes", 0x2297},
  {"perp", 0x22a5}, {"sdot", 0x22c5}, {"vellip", 0x22ee}, {"ctdot", 0x22ef}, {"lceil", 0x2308},
  {"rceil", 0x2309}, {"lfloor", 0x230a}, {"rfloor", 0x230b}, {"telrec", 0x2315},
  {"target", 0x2316}, {"frown", 0x2322}, {"smile", 0x2323}, {"blank", 0x2423}, {"oS", 0x24c8},
  {"boxh", 0x2500}, {"block", 0x2588}, {"squ", 0x25a1}, {"square", 0x25a1},
  {"blacksquare", 0x25aa}, {"utri", 0x25b5}, {"rtri", 0x25b9}, {"dtri", 0x25bf},
  {"loz", 0x25ca}, {"cir", 0x25cb}, {"xcirc", 0x25ef}, {"bigstar", 0x2605}, {"starf", 0x2605},
  {"star", 0x2606}, {"phone", 0x260e}, {"female", 0x2640}, {"male", 0x2642}, {"spades", 0x2660},
  {"spadesuit", 0x2660}, {"clubs", 0x2663}, {"clubsuit", 0x2663}, {"hearts", 0x2665},
  {"heartsuit", 0x2665}, {"diamondsuit", 0x2666}, {"diams", 0x2666}, {"sung", 0x266a},
  {"flat", 0x266d}, {"natural", 0x266e}, {"sharp", 0x266f}, {"check", 0x2713},
  {"checkmark", 0x2713}, {"cross", 0x2717}, {"malt", 0x2720}, {"maltese", 0x2720},
  {"sext", 0x2736}, {"lang", 0x27e8}, {"rang", 0x27e9},
};
// clang-format on

using EntityMap = std::unordered_map<std::string_view, UChar32>;

const EntityMap& old_names() {
  static const EntityMap map = [] {
    EntityMap names;
    for (const Entity& entity : kOldNames) names.emplace(entity.name, entity.character);
    return names;
  }();
  return map;
}

const EntityMap& all_names() {
  static const EntityMap map = [] {
    EntityMap names = old_names();
    for (const Entity& entity : kNewNames) names.emplace(entity.name, entity.character);
    return names;
  }();
  return map;
}

/// Names in capitals that HTML does not know, such as "EACUTE": the character in capitals.
const std::unordered_map<std::string, icu::UnicodeString>& capital_names() {
  static const auto map = [] {
    std::unordered_map<std::string, icu::UnicodeString> names;
    for (const auto& [name, character] : all_names()) {
      const icu::UnicodeString lower = icu::UnicodeString::fromUTF8(std::string(name));
      if (icu::UnicodeString(lower).toLower(icu::Locale::getRoot()) != lower) continue;
      std::string capitals;
      icu::UnicodeString(lower).toUpper(icu::Locale::getRoot()).toUTF8String(capitals);
      if (all_names().count(capitals) > 0) continue;
      names.emplace(capitals, icu::UnicodeString(character).toUpper(icu::Locale::getRoot()));
    }
    return names;
  }();
  return map;
}

/// What "&#number;" stands for: nothing for controls and non-characters.
icu::UnicodeString numbered(UChar32 number) {
  if (number == 0 || (number >= 0xd800 && number <= 0xdfff) || number > 0x10ffff) {
    return icu::UnicodeString(UChar32{0xfffd});
  }
  if (number >= 0x80 && number <= 0x9f) return icu::UnicodeString(windows_1252(number));
  const bool white_space = number == '\t' || number == '\n' || number == '\f' || number == '\r';
  if ((number < 0x20 && !white_space) || number == 0x7f || (number & 0xfffe) == 0xfffe ||
      (number >= 0xfdd0 && number <= 0xfdef)) {
    return icu::UnicodeString();
  }
  return icu::UnicodeString(number);
}

bool is_digit(char16_t c) { return c >= '0' && c <= '9'; }
bool is_hex_digit(char16_t c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}
bool is_name_character(char16_t c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// One reference: what it stands for and where the text goes on; `end` 0 if it is none.
struct Reference {
  icu::UnicodeString characters;
  int32_t end = 0;
};

/// `begin` is behind "&#".
Reference read_number(const icu::UnicodeString& text, int32_t begin, References references) {
  const bool hex = text.charAt(begin) == 'x' || text.charAt(begin) == 'X';
  if (hex) ++begin;
  int32_t end = begin;
  UChar32 number = 0;
  for (; end < text.length(); ++end) {
    const char16_t c = text.charAt(end);
    if (!(hex ? is_hex_digit(c) : is_digit(c))) break;
    const int32_t digit = is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10;
    if (number <= 0x10ffff) number = number * (hex ? 16 : 10) + digit;
  }
  if (end == begin) return {};
  const bool semicolon = text.charAt(end) == ';';
  if (references == References::kUnmistaken && (!semicolon || number == ';')) return {};
  return {numbered(number), semicolon ? end + 1 : end};
}

/// `begin` is behind "&".
Reference read_name(const icu::UnicodeString& text, int32_t begin, References references) {
  constexpr int32_t kLongestName = 32;
  std::string name;
  int32_t end = begin;
  while (end < text.length() && end - begin < kLongestName && is_name_character(text.charAt(end))) {
    name.push_back(static_cast<char>(text.charAt(end++)));
  }
  if (text.charAt(end) == ';') {
    const auto found = all_names().find(name);
    if (found != all_names().end()) return {icu::UnicodeString(found->second), end + 1};
    if (references == References::kUnmistaken) {
      const auto capital = capital_names().find(name);
      if (capital != capital_names().end()) return {capital->second, end + 1};
    }
  }
  if (references == References::kUnmistaken) return {};
  for (; !name.empty(); name.pop_back()) {  // the longest old name that the text begins with
    const auto found = old_names().find(name);
    if (found == old_names().end()) continue;
    return {icu::UnicodeString(found->second), begin + static_cast<int32_t>(name.size())};
  }
  return {};
}

}  // namespace

UChar32 windows_1252(UChar32 c1_control) {
  static constexpr UChar32 kCharacters[32] = {
      0x20ac, 0x81,   0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160,
      0x2039, 0x0152, 0x8d,   0x017d, 0x8f,   0x90,   0x2018, 0x2019, 0x201c, 0x201d, 0x2022,
      0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0x9d,   0x017e, 0x0178};
  return kCharacters[c1_control - 0x80];
}

icu::UnicodeString unescape_html(const icu::UnicodeString& text, References references) {
  int32_t ampersand = text.indexOf(u'&');
  if (ampersand < 0) return text;
  icu::UnicodeString out;
  int32_t copied = 0;  // text before this position is in `out`
  while (ampersand >= 0) {
    const Reference reference = text.charAt(ampersand + 1) == '#'
                                    ? read_number(text, ampersand + 2, references)
                                    : read_name(text, ampersand + 1, references);
    if (reference.end > 0) {
      out.append(text, copied, ampersand - copied).append(reference.characters);
      copied = reference.end;
    }
    ampersand = text.indexOf(u'&', reference.end > 0 ? reference.end : ampersand + 1);
  }
  return out.append(text, copied, text.length() - copied);
}

}  // namespace clip
