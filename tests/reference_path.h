// Where stored reference values lie.
#pragma once

#include <filesystem>
#include <string>

namespace clip {

/// A file of tests/reference/, wherever the tests are run from.
inline std::string reference_path(const std::string& name) {
  return (std::filesystem::path(__FILE__).parent_path() / "reference" / name).string();
}

}  // namespace clip
