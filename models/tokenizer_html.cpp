// References to characters in HTML ("&amp;", "&#233;"), as Python's html.unescape and ftfy read
// them.
#include <unicode/locid.h>

#include <charconv>
#include <string>
#include <string_view>
#include <unordered_map>

#include "models/tokenizer_repair.h"

namespace clip {
namespace {

struct Entity {
  std::u32string characters;
  bool needs_semicolon;  // old pages write some names without
};

using EntityMap = std::unordered_map<std::string_view, Entity>;

/// What kHtmlEntities lists, by name.
const EntityMap& entities() {
  static const EntityMap map = [] {
    EntityMap names;
    for (size_t at = 0; at < kHtmlEntities.size();) {
      const size_t separator = kHtmlEntities.find_first_of(";=", at);
      const size_t end = std::min(kHtmlEntities.find(' ', separator), kHtmlEntities.size());
      Entity entity{{}, kHtmlEntities[separator] == ';'};
      for (const char* digit = kHtmlEntities.data() + separator;
           digit != kHtmlEntities.data() + end;) {
        uint32_t character = 0;
        digit = std::from_chars(digit + 1, kHtmlEntities.data() + end, character, 16).ptr;
        entity.characters.push_back(character);
      }
      names.emplace(kHtmlEntities.substr(at, separator - at), std::move(entity));
      at = end + 1;
    }
    return names;
  }();
  return map;
}

/// The name without ";" that `text` begins with, the longest of several; the end if there is none.
EntityMap::const_iterator find_old_name(std::string_view text) {
  for (; text.size() >= 2; text.remove_suffix(1)) {
    const auto found = entities().find(text);
    if (found != entities().end() && !found->second.needs_semicolon) return found;
  }
  return entities().end();
}

/// Names in capitals that mean nothing in HTML, such as "EACUTE": the character in capitals.
const std::unordered_map<std::string, std::u32string>& capital_names() {
  static const auto map = [] {
    std::unordered_map<std::string, std::u32string> names;
    for (const auto& [name, entity] : entities()) {
      std::string capitals(name);
      bool lower = true;
      for (char& c : capitals) {
        lower = lower && !(c >= 'A' && c <= 'Z');
        if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
      }
      const bool known =
          entities().count(capitals) > 0 || find_old_name(capitals) != entities().end();
      if (lower && !known) {
        names.emplace(std::move(capitals),
                      to_utf32(to_utf16(entity.characters).toUpper(icu::Locale::getRoot())));
      }
    }
    return names;
  }();
  return map;
}

/// What "&#number;" stands for: nothing for controls and non-characters.
std::u32string numbered(char32_t number) {
  if (number == 0 || (number >= 0xd800 && number <= 0xdfff) || number > 0x10ffff) return U"\ufffd";
  if (number >= 0x80 && number <= 0x9f) return {windows_1252(number)};
  const bool white_space = number == '\t' || number == '\n' || number == '\f' || number == '\r';
  if ((number < 0x20 && !white_space) || number == 0x7f || (number & 0xfffe) == 0xfffe ||
      (number >= 0xfdd0 && number <= 0xfdef)) {
    return {};
  }
  return {number};
}

bool is_digit(char32_t c) { return c >= '0' && c <= '9'; }
bool is_hex_digit(char32_t c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}
bool is_name_character(char32_t c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// Letters and digits that ftfy takes for a reference at most.
constexpr size_t kLongestOfFtfy = 24;

/// One reference: what it stands for and where the text goes on; `end` 0 if it is none.
struct Reference {
  std::u32string characters;
  size_t end = 0;
};

/// `begin` is behind "&#".
Reference read_number(std::u32string_view text, size_t begin, References references) {
  const bool hex = begin < text.size() && (text[begin] | 0x20) == 'x';
  const size_t digits = begin + (hex ? 1 : 0);
  size_t end = digits;
  char32_t number = 0;
  for (; end < text.size(); ++end) {
    const char32_t c = text[end];
    if (!(hex ? is_hex_digit(c) : is_digit(c))) break;
    const char32_t digit = is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10;
    if (number <= 0x10ffff) number = number * (hex ? 16 : 10) + digit;
  }
  if (end == digits) return {};
  const bool semicolon = end < text.size() && text[end] == ';';
  const bool unmistaken = semicolon && number != ';' && end - begin <= kLongestOfFtfy;
  if (references == References::kUnmistaken && !unmistaken) return {};
  return {numbered(number), semicolon ? end + 1 : end};
}

/// `begin` is behind "&".
Reference read_name(std::u32string_view text, size_t begin, References references) {
  constexpr size_t kLongestName = 32;
  std::string name;
  for (size_t at = begin; at < text.size() && name.size() < kLongestName; ++at) {
    if (!is_name_character(text[at])) break;
    name.push_back(static_cast<char>(text[at]));
  }
  const size_t end = begin + name.size();
  const bool semicolon = end < text.size() && text[end] == ';';
  const bool unmistaken = semicolon && name.size() <= kLongestOfFtfy;
  if (references == References::kUnmistaken && !unmistaken) return {};
  const auto found = entities().find(name);
  if (semicolon && found != entities().end()) return {found->second.characters, end + 1};
  if (references == References::kUnmistaken) {
    const auto capital = capital_names().find(name);
    return capital == capital_names().end() ? Reference{} : Reference{capital->second, end + 1};
  }
  const auto old = find_old_name(name);
  if (old == entities().end()) return {};
  return {old->second.characters, begin + old->first.size()};
}

}  // namespace

std::u32string unescape_html(std::u32string text, References references) {
  size_t ampersand = text.find(U'&');
  if (ampersand == text.npos) return text;
  std::u32string out;
  size_t copied = 0;  // text before this position is in `out`
  while (ampersand != text.npos) {
    const bool number = ampersand + 1 < text.size() && text[ampersand + 1] == '#';
    const Reference reference = number ? read_number(text, ampersand + 2, references)
                                       : read_name(text, ampersand + 1, references);
    if (reference.end > 0) {
      out.append(text, copied, ampersand - copied).append(reference.characters);
      copied = reference.end;
    }
    ampersand = text.find(U'&', reference.end > 0 ? reference.end : ampersand + 1);
  }
  return out.append(text, copied);
}

}  // namespace clip
