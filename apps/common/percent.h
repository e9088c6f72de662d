// Shares as programs print them.
#pragma once

#include <string>

#include "apps/common/program.h"

namespace clip {

/// " 87.50 %", in eight characters up to 100 %.
inline std::string percent(double share) { return formatted("%6.2f %%", 100 * share); }

}  // namespace clip
