#include "tests/tokenizer_texts.h"

#include <unicode/unistr.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "models/atomic_file.h"
#include "tests/reference_path.h"

namespace clip {
namespace {

constexpr uint64_t kSeed = 7;
constexpr int64_t kWalk = 20;  // characters of a text that walks through Unicode

std::string to_utf8(const std::u32string& text) {
  std::string out;
  return icu::UnicodeString::fromUTF32(reinterpret_cast<const UChar32*>(text.data()),
                                       static_cast<int32_t>(text.size()))
      .toUTF8String(out);
}

std::u32string from_utf8(const std::string& utf8) {
  const icu::UnicodeString text = icu::UnicodeString::fromUTF8(utf8);
  std::u32string out;
  for (int32_t at = 0; at < text.length(); at = text.moveIndex32(at, 1)) {
    out.push_back(static_cast<char32_t>(text.char32At(at)));
  }
  return out;
}

std::u32string from_ascii(const std::string& text) { return {text.begin(), text.end()}; }

template <typename List>
const auto& one_of(Random& random, const List& list) {
  return list[static_cast<size_t>(random.below(std::ssize(list)))];
}

std::vector<std::u32string> from_utf8(const nlohmann::json& list) {
  std::vector<std::u32string> out;
  for (const auto& each : list) out.push_back(from_utf8(each.get<std::string>()));
  return out;
}

}  // namespace

TokenizerTexts::TokenizerTexts() {
  const auto root = nlohmann::json::parse(
      read_file(reference_path("tokenizer_alphabets.json"), int64_t{1} << 20));
  std::istringstream assigned(root["assigned"].get<std::string>());
  uint32_t first = 0, last = 0;
  while (assigned >> std::hex >> first >> last) {
    for (char32_t c = first; c <= last; ++c) assigned_.push_back(c);
  }
  for (const auto& range : root["written"]) written_.push_back({range[0], range[1]});
  pieces_ = from_utf8(root["pieces"]);
  odd_numbers_ = from_utf8(root["odd numbers"]);
  encodings_ = from_utf8(root["encodings"]);
  std::istringstream entities(root["entities"].get<std::string>());
  for (std::string name; entities >> name;) entities_.push_back(from_ascii(name));
}

std::string TokenizerTexts::text(int64_t index) const {
  Random random(kSeed, random_stream("text/" + std::to_string(index)));
  const int64_t kind = index % 8;
  if (kind < 3) return to_utf8(walk(random, index / 8 * 3 + kind));
  if (kind < 7) return to_utf8(of_kind(random, kind));
  std::u32string all;  // long, of several kinds
  const int64_t count = 2 + random.below(12);
  for (int64_t i = 0; i < count; ++i) {
    if (i > 0) all.push_back(U' ');
    all += of_kind(random, 3 + random.below(4));
  }
  return to_utf8(all);
}

std::u32string TokenizerTexts::of_kind(Random& random, int64_t kind) const {
  if (kind == 3) return mixed(random);
  if (kind == 4) return wrongly_decoded(random);
  return kind == 5 ? bytes_of_an_encoding(random) : references(random);
}

/// All assigned characters in their order, a few in each text.
std::u32string TokenizerTexts::walk(Random& random, int64_t step) const {
  static const std::vector<std::u32string> glue = {U"", U"", U"", U"a", U" ", U"'s", U"1"};
  std::u32string out;
  for (int64_t i = 0; i < kWalk; ++i) {
    out.push_back(assigned_[static_cast<size_t>(step * kWalk + i) % assigned_.size()]);
    out += one_of(random, glue);
  }
  return out;
}

std::u32string TokenizerTexts::word(Random& random) const {
  static const std::u32string letters = U"etaoinshrdluetaoinshrdlucmfwypvbgkjqxzETAOIN";
  std::u32string out;
  const int64_t length = 1 + random.below(9);
  for (int64_t i = 0; i < length; ++i) out.push_back(one_of(random, letters));
  return out;
}

std::u32string TokenizerTexts::written_word(Random& random) const {
  const Range range = one_of(random, written_);
  std::u32string out;
  const int64_t length = 1 + random.below(5);
  for (int64_t i = 0; i < length; ++i) {
    out.push_back(range.first +
                  static_cast<char32_t>(random.below(range.last - range.first + int64_t{1})));
  }
  return out;
}

std::u32string TokenizerTexts::mixed(Random& random) const {
  static const std::vector<std::u32string> between = {U"", U" ", U" "};
  std::u32string out;
  const int64_t parts = 1 + random.below(10);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t what = random.below(5);
    if (what == 0) {
      out += word(random);
    } else if (what == 1) {  // any character, the lower ones more often
      const int64_t most = random.below(std::ssize(assigned_));
      const int64_t bound = random.below(1 + most);
      out.push_back(assigned_[static_cast<size_t>(random.below(1 + bound))]);
    } else if (what == 2) {
      out += written_word(random);
    } else {
      out += one_of(random, pieces_);
    }
    out += one_of(random, between);
  }
  return out;
}

/// The text's UTF-8 read by an encoding, and perhaps damaged then.
std::u32string TokenizerTexts::misread(Random& random, const std::u32string& text) const {
  const std::u32string& table = one_of(random, encodings_);
  std::u32string out;
  for (const char byte : to_utf8(text)) {
    const auto value = static_cast<unsigned char>(byte);
    out.push_back(value < 128 ? value : table[value - 128]);
  }
  const int64_t damage = random.below(6);
  for (char32_t& c : out) {
    if (damage == 0 && c >= 0x80 && c <= 0x9f) c = 0xfffd;
    if (damage == 1 && c == 0xa0) c = U' ';
    if (damage == 2 && random.below(12) == 0) c = 0xfffd;
  }
  return out;
}

std::u32string TokenizerTexts::wrongly_decoded(Random& random) const {
  static const std::vector<std::u32string> between = {U"", U" ", U"'s ", U", "};
  std::u32string out = word(random);
  const int64_t words = 1 + random.below(4);
  for (int64_t i = 0; i < words; ++i) {
    out += one_of(random, between);
    out += random.below(2) == 0 ? word(random) : written_word(random);
  }
  const int64_t times = 1 + random.below(2);
  for (int64_t i = 0; i < times; ++i) out = misread(random, out);
  return random.below(3) == 0 ? mixed(random) + U" " + out : out;
}

std::u32string TokenizerTexts::bytes_of_an_encoding(Random& random) const {
  const std::u32string& table = one_of(random, encodings_);
  std::u32string out;
  const int64_t parts = 1 + random.below(6);
  for (int64_t part = 0; part < parts; ++part) {
    if (random.below(2) == 0) out += word(random);
    const int64_t length = 1 + random.below(4);
    for (int64_t i = 0; i < length; ++i) out.push_back(one_of(random, table));
    if (random.below(2) == 1) out.push_back(U' ');
  }
  return out;
}

std::u32string TokenizerTexts::references(Random& random) const {
  static const std::vector<std::u32string> ends = {U";", U";", U";", U"", U" ", U"x", U";;"};
  std::u32string out;
  const int64_t parts = 1 + random.below(6);
  for (int64_t part = 0; part < parts; ++part) {
    std::u32string name = one_of(random, entities_);
    const int64_t how = random.below(8);
    if (how == 0) {
      for (char32_t& c : name) c -= c >= 'a' && c <= 'z' ? 'a' - 'A' : 0;
    } else if (how == 1) {
      name = U"amp;" + name;
    } else if (how == 2) {
      name.resize(static_cast<size_t>(1 + random.below(std::ssize(name))));
    } else if (how == 3) {
      const int64_t most = random.below(std::ssize(assigned_));
      const auto character = assigned_[static_cast<size_t>(random.below(1 + most))];
      name = from_ascii("#" + std::to_string(static_cast<uint32_t>(character)));
    } else if (how == 4) {
      std::ostringstream hex;
      hex << "#x" << std::hex << random.below(0x100);
      name = from_ascii(hex.str());
    } else if (how == 5) {
      name = one_of(random, odd_numbers_);
    }
    out += U"&" + name + one_of(random, ends);
    if (random.below(2) == 0) out += word(random);
  }
  return out;
}

}  // namespace clip
