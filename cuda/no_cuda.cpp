// Stands in for the GPU where the build has none; chosen at link time.
#include "engine/backend.h"

namespace clip {

std::unique_ptr<Backend> make_cuda_backend(int index) {
  throw Error(concat("[device] cuda:", index, " was asked for, but this build has no GPU part"));
}

}  // namespace clip
