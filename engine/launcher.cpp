#include "engine/launcher.h"

#include <algorithm>
#include <cstdlib>

namespace clip {

int64_t launched_ranks() {
  // Open MPI's mpirun, the one of MPICH and its kin, srun. Of SLURM's variables only those of a
  // step count: a shell inside an allocation has the others too.
  int64_t ranks = 1;
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
    if (const char* value = std::getenv(name)) ranks = std::max<int64_t>(ranks, std::atoll(value));
  return ranks;
}

}  // namespace clip
