// A GPU's memory, and the way to it from the host.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace clip {

/// Keeps freed blocks for the next tensor of about their size: after the first steps nothing is
/// asked of the driver, which would wait for the GPU. A freed block may be handed out while kernels
/// still to run read it: whoever gets it uses it on the same stream, behind them. What other streams
/// do with a block must be over, or waited for by this one, before it is freed.
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

/// Copies from the host through a ring of pinned memory: the caller need not keep its bytes, and
/// waits for the GPU only where the ring is full of what has not been copied yet.
class HostStaging {
 public:
  HostStaging();
  ~HostStaging();
  HostStaging(const HostStaging&) = delete;
  HostStaging& operator=(const HostStaging&) = delete;

  void copy(void* to, const void* from, int64_t bytes, cudaStream_t stream);

 private:
  static constexpr int64_t kRingBytes = 32 << 20;
  static constexpr int64_t kChunkBytes = 4 << 20;  // so that a large copy fills while it is sent
  struct Region {
    int64_t begin, end;
    cudaEvent_t copied;
  };
  int64_t take_region(int64_t bytes);
  cudaEvent_t take_event();

  std::mutex mutex_;
  char* ring_ = nullptr;
  int64_t next_ = 0;
  std::deque<Region> in_flight_;  // oldest first
  std::vector<cudaEvent_t> free_events_;
};

/// Backend::upload: a stream of its own.
class Uploads {
 public:
  explicit Uploads(cudaStream_t compute);
  ~Uploads();
  Uploads(const Uploads&) = delete;
  Uploads& operator=(const Uploads&) = delete;

  void copy(void* to, const void* from, int64_t bytes);

 private:
  cudaStream_t compute_, stream_ = nullptr;
  cudaEvent_t before_ = nullptr;    // where the computation was at the last upload
  cudaEvent_t uploaded_ = nullptr;  // behind the last upload
  HostStaging staging_;
};

}  // namespace clip
