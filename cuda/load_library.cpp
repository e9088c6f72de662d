// Defines make_cuda_backend for programs whose build has GPU kernels. They are in libclip_cuda.so,
// loaded when a GPU is asked for and not before: NVIDIA's libraries take time and memory to load,
// and a machine without a GPU need not have them.
#include <dlfcn.h>

#include "engine/backend.h"

namespace clip {
namespace {

constexpr const char* kDriver = "libcuda.so.1";
constexpr const char* kLibrary = "libclip_cuda.so";  // found by the program's run path
constexpr const char* kEntry = "clip_make_cuda_backend";

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(int index) {
  CLIP_CHECK(dlopen(kDriver, RTLD_LAZY) != nullptr, "no cuda:", index,
             ": this machine has no NVIDIA driver (", kDriver, ")");
  // Never closed: tensors may live until the program ends.
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  CLIP_CHECK(library != nullptr, "no cuda:", index, ": the kernels cannot be loaded: ", dlerror());
  const auto entry = reinterpret_cast<Backend* (*)(int)>(dlsym(library, kEntry));
  CLIP_CHECK(entry != nullptr, "no cuda:", index, ": ", kLibrary, " has no ", kEntry,
             ", so it is of another version");
  return std::unique_ptr<Backend>(entry(index));
}

}  // namespace clip
