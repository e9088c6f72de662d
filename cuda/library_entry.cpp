// What load_library.cpp looks up in libclip_cuda.so.
#include "engine/backend.h"
#include "engine/communicator.h"

extern "C" clip::Backend* clip_make_cuda_backend(int index) {
  return clip::make_cuda_backend(index).release();
}

extern "C" clip::Communicator* clip_make_gpu_communicator(clip::Communicator& launch,
                                                          clip::Backend& gpu) {
  return clip::make_gpu_communicator(launch, gpu).release();
}
