// Stands in for the GPU where the build has none; chosen at link time.
#include "engine/backend.h"

namespace clip {

std::unique_ptr<Backend> make_cuda_backend(int index) {
  throw Error(concat("no cuda:", index, ": this build has no GPU kernels"));
}

}  // namespace clip
