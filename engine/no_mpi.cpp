// Stands in for MPI where the build has none; chosen at link time.
#include "engine/communicator.h"
#include "engine/launcher.h"

namespace clip {

std::unique_ptr<Communicator> make_communicator(int64_t) {
  CLIP_CHECK(launched_ranks() == 1, "[ranks] ", launched_ranks(),
             " processes were started together, but this build has no MPI to join them");
  return make_single_communicator();
}

}  // namespace clip
