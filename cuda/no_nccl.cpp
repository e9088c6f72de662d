// Defines make_gpu_communicator for builds without NCCL.
#include "engine/backend.h"
#include "engine/communicator.h"

namespace clip {

std::unique_ptr<Communicator> make_gpu_communicator(Communicator& launch, Backend& /*gpu*/) {
  if (launch.size() == 1) return make_single_communicator();
  throw Error(
      concat("[ranks] ", launch.size(),
             " ranks were started with a GPU each, but this build has no NCCL to join them"));
}

}  // namespace clip
