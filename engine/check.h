// Errors: libraries throw clip::Error with one sentence; only main() prints and exits.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace clip {

/// A run-time failure, told in one sentence (programs exit with 1).
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A wrong option or argument, told in one sentence (programs exit with 2).
class UsageError : public Error {
 public:
  using Error::Error;
};

/// The parts written one after the other, as std::ostream prints them.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

}  // namespace clip

/// One check at the boundary of an op: op, expected and found, e.g.
/// CLIP_CHECK(x.rank() == 2, "[linear] x must be [R, C], got ", x.shape());
#define CLIP_CHECK(condition, ...)                                      \
  do {                                                                  \
    if (!(condition)) throw ::clip::Error(::clip::concat(__VA_ARGS__)); \
  } while (false)
