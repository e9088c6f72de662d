#include "models/strict_json.h"

#include <cstddef>
#include <set>
#include <vector>

#include "engine/check.h"

namespace clip {

using nlohmann::json;

json parse_json(std::string_view text, const std::string& origin) {
  constexpr int kMaxDepth = 64;
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key)
      CLIP_CHECK(keys.back().insert(value.get<std::string>()).second, origin, ": the key ",
                 shown(value), " occurs twice in one object");
    CLIP_CHECK(depth < kMaxDepth, origin, ": JSON nested deeper than ", kMaxDepth, " levels");
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::parse_error& error) {
    throw Error(concat(origin, ": no valid JSON, syntax error at byte ", error.byte));
  } catch (const json::exception&) {
    throw Error(concat(origin, ": no valid JSON, a number is out of range"));
  }
}

std::string shown(const json& value) {
  constexpr size_t kLongest = 120;
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

}  // namespace clip
