// What a test expects of an error: its sentence.
#pragma once

#include <string>

#include "engine/check.h"

namespace clip {

/// The sentence of the clip::Error (or another E) that `function` throws, or "(no error)".
template <class E = Error, class Function>
std::string error_message(const Function& function) {
  try {
    function();
  } catch (const E& error) {
    return error.what();
  }
  return "(no error)";
}

/// True if `text` is one line that holds every one of `parts`.
template <class... Parts>
bool says(const std::string& text, const Parts&... parts) {
  return text.find('\n') == std::string::npos && (... && (text.find(parts) != std::string::npos));
}

}  // namespace clip
