#include "models/shard_pattern.h"

#include <algorithm>
#include <cstdint>
#include <iomanip>
#include <sstream>
#include <string_view>

#include "engine/check.h"

namespace clip {
namespace {

constexpr size_t kMaxShards = 1'000'000;

/// The numbers of "0000..0009" as text; empty if `inside` is no range.
std::vector<std::string> expand_range(std::string_view inside) {
  const size_t dots = inside.find("..");
  if (dots == std::string_view::npos) return {};
  const std::string_view first = inside.substr(0, dots), last = inside.substr(dots + 2);
  const auto is_number = [](std::string_view text) {
    return !text.empty() && text.size() <= 9 &&
           text.find_first_not_of("0123456789") == std::string_view::npos;
  };
  if (!is_number(first) || !is_number(last)) return {};
  const int64_t begin = std::stoll(std::string(first)), end = std::stoll(std::string(last));
  const int64_t step = begin <= end ? 1 : -1;
  CLIP_CHECK(step * (end - begin) < static_cast<int64_t>(kMaxShards), "the range {", inside,
             "} has more than ", kMaxShards, " numbers");
  std::vector<std::string> numbers;
  for (int64_t number = begin; number != end + step; number += step) {
    std::ostringstream text;
    text << std::setw(static_cast<int>(first.size())) << std::setfill('0') << number;
    numbers.push_back(text.str());
  }
  return numbers;
}

/// Cuts at the commas that no inner braces hold.
std::vector<std::string_view> split_list(std::string_view inside) {
  std::vector<std::string_view> items;
  int depth = 0;
  size_t begin = 0;
  for (size_t i = 0; i < inside.size(); ++i) {
    if (inside[i] == '{') ++depth;
    if (inside[i] == '}') --depth;
    if (inside[i] == ',' && depth == 0) {
      items.push_back(inside.substr(begin, i - begin));
      begin = i + 1;
    }
  }
  items.push_back(inside.substr(begin));
  return items;
}

size_t closing_brace(std::string_view pattern, size_t open) {
  int depth = 0;
  for (size_t i = open; i < pattern.size(); ++i) {
    if (pattern[i] == '{') ++depth;
    if (pattern[i] == '}' && --depth == 0) return i;
  }
  throw Error(concat("the pattern '", pattern, "' has a brace that is never closed"));
}

std::vector<std::string> expand_braces(std::string_view pattern);

std::vector<std::string> expand_group(std::string_view inside) {
  std::vector<std::string> names = expand_range(inside);
  if (!names.empty()) return names;
  const std::vector<std::string_view> items = split_list(inside);
  CLIP_CHECK(items.size() > 1, "{", inside,
             "} is neither a range such as {0000..0009} nor a list such as {a,b}");
  for (std::string_view item : items) {
    for (std::string& name : expand_braces(item)) names.push_back(std::move(name));
  }
  return names;
}

/// Before, group and rest: every name of the group with every name of the rest.
std::vector<std::string> expand_braces(std::string_view pattern) {
  const size_t open = pattern.find_first_of("{}");
  if (open == std::string_view::npos) return {std::string(pattern)};
  CLIP_CHECK(pattern[open] == '{', "the pattern '", pattern, "' closes a brace that is not open");
  const size_t close = closing_brace(pattern, open);
  const std::string before(pattern.substr(0, open));
  const std::vector<std::string> group = expand_group(pattern.substr(open + 1, close - open - 1));
  const std::vector<std::string> rest = expand_braces(pattern.substr(close + 1));
  CLIP_CHECK(group.size() * rest.size() <= kMaxShards, "the pattern '", pattern,
             "' makes more than ", kMaxShards, " names");
  std::vector<std::string> names;
  names.reserve(group.size() * rest.size());
  for (const std::string& middle : group) {
    for (const std::string& end : rest) names.push_back(before + middle + end);
  }
  return names;
}

}  // namespace

std::vector<std::string> expand_shard_pattern(const std::string& pattern) {
  std::vector<std::string> names;
  for (size_t begin = 0; begin <= pattern.size();) {
    const size_t end = std::min(pattern.find("::", begin), pattern.size());
    CLIP_CHECK(end > begin, "the pattern '", pattern, "' has an empty part");
    for (std::string& name : expand_braces(std::string_view(pattern).substr(begin, end - begin))) {
      names.push_back(std::move(name));
    }
    begin = end + 2;
  }
  return names;
}

}  // namespace clip
