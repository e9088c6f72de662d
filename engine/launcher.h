// What mpirun or srun told this process through its environment.
#pragma once

#include <cstdint>

namespace clip {

/// Processes that a launcher started together with this one; 1 if there was none.
int64_t launched_ranks();

}  // namespace clip
