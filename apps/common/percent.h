// Shares as programs print them.
#pragma once

#include <cstdio>
#include <string>

namespace clip {

/// " 87.50 %", in nine characters up to 100 %.
inline std::string percent(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%6.2f %%", 100 * share);
  return text;
}

}  // namespace clip
