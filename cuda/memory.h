// A GPU's memory, and the way to it from the host.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <unordered_map>

namespace clip {

/// Keeps freed blocks for the next tensor of about their size: after the first steps nothing is
/// asked of the driver, which would wait for the GPU. All users are on one stream, so that a freed
/// block may be handed out while kernels still to run read it.
class DeviceMemory {
 public:
  explicit DeviceMemory(cudaStream_t stream) : stream_(stream) {}
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  /// 512-byte aligned; throws clip::Error if none is left
  void* allocate(int64_t bytes);
  void release(void* address) noexcept;

 private:
  void* take_free_block(int64_t size);
  void free_all_kept();

  cudaStream_t stream_;
  std::mutex mutex_;
  std::multimap<int64_t, void*> free_blocks_;       // by size
  std::unordered_map<void*, int64_t> block_sizes_;  // of all blocks
};

/// Copies from the host through pinned memory, so that the caller waits neither for the GPU nor,
/// afterwards, needs to keep its bytes.
class HostStaging {
 public:
  HostStaging();
  ~HostStaging();
  HostStaging(const HostStaging&) = delete;
  HostStaging& operator=(const HostStaging&) = delete;

  void copy(void* to, const void* from, int64_t bytes, cudaStream_t stream);

 private:
  static constexpr int64_t kSlotBytes = 2 << 20;
  struct Slot {
    void* pinned = nullptr;
    cudaEvent_t copied = nullptr;  // recorded behind the slot's last copy
  };
  void free_slots() noexcept;

  std::mutex mutex_;
  std::array<Slot, 8> slots_;
  size_t next_ = 0;
};

}  // namespace clip
