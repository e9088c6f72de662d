// The one simulated device, and what it says of launches.
#include <cuda_runtime.h>

#include <cstring>
#include <map>
#include <memory>
#include <utility>

#include "engine/check.h"
#include "tests/cudasim/cuda/launch.cuh"
#include "tests/cudasim/error.h"
#include "tests/cudasim/fault.h"
#include "tests/cudasim/memory.h"
#include "tests/cudasim/options.h"
#include "tests/cudasim/stream.h"

namespace cudasim {
namespace {

// An A100's, the smaller of the two that the kernels are built for (H100: 227 KB).
constexpr int kMaxSharedBytes = 163 * 1024;
constexpr int kSharedBytesUnasked = 48 * 1024;
constexpr int kVersion = CUDART_VERSION;
// All are one: a process uses the one of its rank. Each process has its own memory.
constexpr int kDevices = 8;
int current_device = 0;

std::map<const void*, int>& shared_limits() {
  static std::map<const void*, int> limits;
  return limits;
}

int64_t shared_limit(const void* kernel) {
  const auto found = shared_limits().find(kernel);
  return found == shared_limits().end() ? kSharedBytesUnasked : found->second;
}

cudaError_t check_shape(const Launch& launch) {
  const auto text = [](const dim3& v) { return clip::concat(v.x, " x ", v.y, " x ", v.z); };
  const dim3& block = launch.block;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads < 1 || threads > kMaxBlockThreads || block.z > 64)
    return fail(cudaErrorInvalidConfiguration, "a block of " + text(block) + " threads");
  const dim3& grid = launch.grid;
  const bool empty = grid.x == 0 || grid.y == 0 || grid.z == 0;
  if (empty || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return fail(cudaErrorInvalidConfiguration, "a grid of " + text(grid) + " blocks");
  if (launch.shared_bytes < 0 || launch.shared_bytes > shared_limit(launch.kernel))
    return fail(cudaErrorInvalidValue,
                clip::concat(launch.shared_bytes, " bytes of dynamic shared memory, at most ",
                             shared_limit(launch.kernel), " unless cudaFuncSetAttribute asks"));
  return cudaSuccess;
}

}  // namespace

cudaError_t enqueue(Launch launch, cudaStream_t stream) {
  const std::lock_guard<std::recursive_mutex> lock(runtime_mutex());
  if (const cudaError_t code = check_shape(launch); code != cudaSuccess) return code;
  const auto shared = std::make_shared<Launch>(std::move(launch));
  return enqueue(stream, [shared] { run_grid(*shared, fibers_of_running_stream()); });
}

void check_pointer_argument(const Launch& launch, int index, const void* pointer) {
  const std::lock_guard<std::recursive_mutex> lock(runtime_mutex());
  const Memory kind = kind_of_memory(pointer);
  if (pointer == nullptr || kind == Memory::kDevice) return;
  // An empty tensor may lie behind the last byte of its storage.
  if (kind_of_memory(static_cast<const char*>(pointer) - 1) == Memory::kDevice) return;
  fault(clip::concat("kernel ", launch.name, ", launched at ", launch.file, ":", launch.line,
                     ": argument ", index, " is a pointer to ",
                     kind == Memory::kPinned ? "pinned " : "", "host memory, ", pointer));
}

}  // namespace cudasim

cudaError_t cudaGetDeviceCount(int* count) {
  *count = cudasim::kDevices;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= cudasim::kDevices)
    return cudasim::fail(
        cudaErrorInvalidDevice,
        clip::concat("device ", device, " of ", cudasim::kDevices, " simulated ones"));
  cudasim::current_device = device;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = cudasim::current_device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= cudasim::kDevices)
    return cudasim::fail(cudaErrorInvalidDevice, clip::concat("device ", device));
  *properties = {};
  std::strcpy(properties->name, "simulated GPU");
  properties->major = 8;
  properties->minor = 0;
  properties->totalGlobalMem = static_cast<size_t>(cudasim::options().memory_bytes);
  properties->sharedMemPerBlock = cudasim::kSharedBytesUnasked;
  properties->sharedMemPerBlockOptin = cudasim::kMaxSharedBytes;
  properties->sharedMemPerMultiprocessor = cudasim::kMaxSharedBytes + 1024;
  properties->warpSize = cudasim::kWarpSize;
  properties->maxThreadsPerBlock = cudasim::kMaxBlockThreads;
  properties->multiProcessorCount = 1;
  properties->regsPerBlock = 65536;
  properties->l2CacheSize = 40 << 20;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (const cudaError_t code = cudaGetDeviceProperties(&properties, device); code != cudaSuccess)
    return code;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = cudasim::kMaxSharedBytes;
      break;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      break;
    default:
      return cudasim::fail(cudaErrorInvalidValue,
                           clip::concat("the simulator does not know device attribute ",
                                        static_cast<int>(attribute)));
  }
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = cudasim::kVersion;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = cudasim::kVersion;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  const std::lock_guard<std::recursive_mutex> lock(cudasim::runtime_mutex());
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
    return cudasim::fail(
        cudaErrorInvalidValue,
        clip::concat("the simulator does not know kernel attribute ", static_cast<int>(attribute)));
  if (value < 0 || value > cudasim::kMaxSharedBytes)
    return cudasim::fail(
        cudaErrorInvalidValue,
        clip::concat(value, " bytes of dynamic shared memory, at most ", cudasim::kMaxSharedBytes));
  cudasim::shared_limits()[kernel] = value;
  return cudaSuccess;
}
