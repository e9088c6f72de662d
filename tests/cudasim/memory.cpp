#include "tests/cudasim/memory.h"

#include <cuda_runtime.h>

#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <vector>

#include "engine/check.h"
#include "tests/cudasim/counts.h"
#include "tests/cudasim/error.h"
#include "tests/cudasim/options.h"
#include "tests/cudasim/sanitizer.h"
#include "tests/cudasim/stream.h"

namespace cudasim {
namespace {

constexpr int kPoison = 0xFF;
constexpr std::align_val_t kAlignment{256};

struct Allocation {
  const unsigned char* address = nullptr;
  int64_t bytes = 0;
  Memory kind = Memory::kPageable;
};

struct Allocations {
  std::map<const unsigned char*, Allocation> by_address;
  int64_t device_bytes = 0;
};

Allocations& allocations() {
  static Allocations* all = new Allocations;  // outlives every static object that frees memory
  return *all;
}

Allocation find(const void* address) {
  const auto* byte = static_cast<const unsigned char*>(address);
  const auto& all = allocations().by_address;
  auto next = all.upper_bound(byte);
  if (next == all.begin()) return {};
  const Allocation& found = std::prev(next)->second;
  const bool inside = byte == found.address || byte < found.address + found.bytes;
  return inside ? found : Allocation{};
}

bool lies_in(const Allocation& allocation, const void* address, int64_t bytes) {
  return static_cast<const unsigned char*>(address) + bytes <=
         allocation.address + allocation.bytes;
}

// Exactly as many bytes as asked for, so that AddressSanitizer sees the first one beyond.
cudaError_t allocate(void** address, size_t bytes, Memory kind) {
  Allocations& all = allocations();
  const auto count = static_cast<int64_t>(bytes);
  if (kind == Memory::kDevice) {
    if (all.device_bytes + count > options().memory_bytes)
      return fail(cudaErrorMemoryAllocation,
                  clip::concat(count, " bytes asked for, ", all.device_bytes, " of ",
                               options().memory_bytes, " in use"));
    all.device_bytes += count;
  }
  *address = ::operator new(bytes, kAlignment);
  std::memset(*address, kPoison, bytes);
  const auto* byte = static_cast<const unsigned char*>(*address);
  all.by_address[byte] = {byte, count, kind};
  return cudaSuccess;
}

cudaError_t release(void* address, Memory kind, const char* function) {
  if (address == nullptr) return cudaSuccess;
  synchronize_device();  // as cudaFree does
  Allocations& all = allocations();
  const auto found = all.by_address.find(static_cast<const unsigned char*>(address));
  if (found == all.by_address.end() || found->second.kind != kind)
    return fail(cudaErrorInvalidValue,
                clip::concat(function, " of ", address, ", which it did not allocate"));
  if (kind == Memory::kDevice) all.device_bytes -= found->second.bytes;
  all.by_address.erase(found);
  ::operator delete(address, kAlignment);
  return cudaSuccess;
}

// ---- Copies. ThreadSanitizer may be told to overlook what this file does, hence the notes.
void copy_bytes(void* to, const void* from, size_t bytes) {
  note_read(from, bytes);
  note_write(to, bytes);
  std::memmove(to, from, bytes);
}

void set_bytes(void* address, int value, size_t bytes) {
  note_write(address, bytes);
  std::memset(address, value, bytes);
}

bool is_on_device(cudaMemcpyKind kind, bool target) {
  return kind == cudaMemcpyDeviceToDevice ||
         kind == (target ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost);
}

cudaError_t check_side(const void* address, size_t bytes, cudaMemcpyKind kind, bool target) {
  const char* side = target ? "target" : "source";
  const Allocation allocation = find(address);
  const bool on_device = allocation.kind == Memory::kDevice;
  if (kind != cudaMemcpyDefault && on_device != is_on_device(kind, target))
    return fail(cudaErrorInvalidValue,
                clip::concat("copy's ", side, " ", address, " is ", on_device ? "" : "not ",
                             "memory of the device, its direction says otherwise"));
  const auto count = static_cast<int64_t>(bytes);
  if (allocation.kind != Memory::kPageable && !lies_in(allocation, address, count))
    return fail(cudaErrorInvalidValue,
                clip::concat("copy's ", side, ", ", count, " bytes at ", address,
                             ", ends outside its allocation of ", allocation.bytes, " bytes at ",
                             static_cast<const void*>(allocation.address)));
  return cudaSuccess;
}

cudaError_t check_copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
    return fail(cudaErrorInvalidMemcpyDirection,
                clip::concat("direction ", static_cast<int>(kind)));
  const cudaError_t code = check_side(to, bytes, kind, true);
  return code != cudaSuccess ? code : check_side(from, bytes, kind, false);
}

cudaError_t check_memset(void* address, size_t bytes) {
  if (bytes == 0 || is_device_memory(address, static_cast<int64_t>(bytes))) return cudaSuccess;
  return fail(cudaErrorInvalidValue,
              clip::concat("memset of ", bytes, " bytes at ", address,
                           ", which are not inside an allocation of the device"));
}

}  // namespace

Memory kind_of_memory(const void* address) { return find(address).kind; }

bool is_device_memory(const void* address, int64_t bytes) {
  // Most questions in a row are about one allocation.
  static Allocation last;
  const auto* byte = static_cast<const unsigned char*>(address);
  const auto holds = [&](const Allocation& a) {
    return a.kind == Memory::kDevice && byte >= a.address && lies_in(a, address, bytes);
  };
  const auto known = allocations().by_address.find(last.address);
  if (known != allocations().by_address.end() && holds(known->second)) return true;
  last = find(address);
  return holds(last);
}

}  // namespace cudasim

using cudasim::Memory;
using Lock = std::lock_guard<std::recursive_mutex>;

cudaError_t cudaMalloc(void** address, size_t bytes) {
  const Lock lock(cudasim::runtime_mutex());
  ++cudasim::counts().allocations;
  return cudasim::allocate(address, bytes, Memory::kDevice);
}

cudaError_t cudaFree(void* address) {
  const Lock lock(cudasim::runtime_mutex());
  return cudasim::release(address, Memory::kDevice, "cudaFree");
}

cudaError_t cudaMallocHost(void** address, size_t bytes) {
  const Lock lock(cudasim::runtime_mutex());
  return cudasim::allocate(address, bytes, Memory::kPinned);
}

cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned) {
  return cudaMallocHost(address, bytes);
}

cudaError_t cudaFreeHost(void* address) {
  const Lock lock(cudasim::runtime_mutex());
  return cudasim::release(address, Memory::kPinned, "cudaFreeHost");
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const Lock lock(cudasim::runtime_mutex());
  *total = static_cast<size_t>(cudasim::options().memory_bytes);
  *free = *total - static_cast<size_t>(cudasim::allocations().device_bytes);
  return cudaSuccess;
}

// The source of a copy from pageable memory is read during the call, the target of a copy to it is
// written during the call; pinned memory is touched when the stream comes to it.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t handle) {
  const Lock lock(cudasim::runtime_mutex());
  if (const cudaError_t code = cudasim::check_copy(to, from, bytes, kind); code != cudaSuccess)
    return code;
  if (cudasim::kind_of_memory(from) == Memory::kPageable) {
    const auto* first = static_cast<const unsigned char*>(from);
    const auto staged = std::make_shared<std::vector<unsigned char>>(first, first + bytes);
    return cudasim::enqueue(handle, [=] { cudasim::copy_bytes(to, staged->data(), bytes); });
  }
  const cudaError_t code = cudasim::enqueue(handle, [=] { cudasim::copy_bytes(to, from, bytes); });
  const bool waits = cudasim::kind_of_memory(to) == Memory::kPageable;
  return code == cudaSuccess && waits ? cudaStreamSynchronize(handle) : code;
}

cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t handle) {
  const Lock lock(cudasim::runtime_mutex());
  if (const cudaError_t code = cudasim::check_memset(address, bytes); code != cudaSuccess)
    return code;
  return cudasim::enqueue(handle, [=] { cudasim::set_bytes(address, value, bytes); });
}

// Without a stream: at once, after the streams that wait for the null stream, whatever the others
// (cudaStreamNonBlocking) have still to do.
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const Lock lock(cudasim::runtime_mutex());
  ++cudasim::counts().waits;
  if (const cudaError_t code = cudasim::check_copy(to, from, bytes, kind); code != cudaSuccess)
    return code;
  cudasim::synchronize_blocking_streams();
  cudasim::copy_bytes(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemset(void* address, int value, size_t bytes) {
  const Lock lock(cudasim::runtime_mutex());
  if (const cudaError_t code = cudasim::check_memset(address, bytes); code != cudaSuccess)
    return code;
  cudasim::synchronize_blocking_streams();
  cudasim::set_bytes(address, value, bytes);
  return cudaSuccess;
}
