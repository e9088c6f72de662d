// JSON of files that may be damaged or foreign: a repeated key or deep nesting is refused, not
// guessed at.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace clip {

/// The value of a JSON text.
/// throws clip::Error that begins with `origin` and names the place
nlohmann::json parse_json(std::string_view text, const std::string& origin);

/// A value as an error message shows it: on one line, in ASCII, cut to a readable length.
std::string shown(const nlohmann::json& value);

}  // namespace clip
