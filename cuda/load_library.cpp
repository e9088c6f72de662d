// Defines make_cuda_backend and make_gpu_communicator for programs whose build has GPU kernels. They
// are in libclip_cuda.so, loaded when a GPU is asked for and not before: NVIDIA's libraries take
// time and memory to load, and a machine without a GPU need not have them.
#include <dlfcn.h>

#include <string>

#include "engine/backend.h"
#include "engine/communicator.h"

namespace clip {
namespace {

constexpr const char* kDriver = "libcuda.so.1";
constexpr const char* kLibrary = "libclip_cuda.so";  // found by the program's run path

/// A function of the library, which is loaded first and never closed: tensors may live until the
/// program ends.
template <class Function>
Function* find_entry(const std::string& wanted, const char* name) {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  CLIP_CHECK(library != nullptr, "no ", wanted, ": the kernels cannot be loaded: ", dlerror());
  const auto entry = reinterpret_cast<Function*>(dlsym(library, name));
  CLIP_CHECK(entry != nullptr, "no ", wanted, ": ", kLibrary, " has no ", name,
             ", so it is of another version");
  return entry;
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(int index) {
  const std::string wanted = concat("cuda:", index);
  CLIP_CHECK(dlopen(kDriver, RTLD_LAZY) != nullptr, "no ", wanted,
             ": this machine has no NVIDIA driver (", kDriver, ")");
  return std::unique_ptr<Backend>(
      find_entry<Backend*(int)>(wanted, "clip_make_cuda_backend")(index));
}

std::unique_ptr<Communicator> make_gpu_communicator(Communicator& launch, Backend& gpu) {
  return std::unique_ptr<Communicator>(find_entry<Communicator*(Communicator&, Backend&)>(
      concat(gpu.device()), "clip_make_gpu_communicator")(launch, gpu));
}

}  // namespace clip
