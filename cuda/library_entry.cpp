// What load_library.cpp looks up in libclip_cuda.so.
#include "engine/backend.h"

extern "C" clip::Backend* clip_make_cuda_backend(int index) {
  return clip::make_cuda_backend(index).release();
}
