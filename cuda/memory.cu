#include <algorithm>
#include <cstring>
#include <new>

#include "cuda/check.h"
#include "cuda/memory.h"
#include "engine/block_size.h"
#include "engine/check.h"

namespace clip {
namespace {

constexpr int64_t kBlockUnit = 512;  // bytes

}  // namespace

DeviceMemory::~DeviceMemory() {
  for (const auto& [address, size] : block_sizes_) cudaFree(address);
}

/// The smallest kept block that holds `size` and is at most a quarter larger, or null.
void* DeviceMemory::take_free_block(int64_t size) {
  const auto found = free_blocks_.lower_bound(size);
  if (found == free_blocks_.end() || found->first > size + size / 4) return nullptr;
  void* address = found->second;
  free_blocks_.erase(found);
  return address;
}

void DeviceMemory::free_all_kept() {
  check_cuda(cudaStreamSynchronize(stream_), "allocate");
  for (const auto& [size, address] : free_blocks_) {
    check_cuda(cudaFree(address), "allocate");
    block_sizes_.erase(address);
  }
  free_blocks_.clear();
}

void* DeviceMemory::allocate(int64_t bytes) {
  const int64_t size = block_size(bytes, kBlockUnit);
  const std::lock_guard lock(mutex_);
  if (void* kept = take_free_block(size)) return kept;
  void* address = nullptr;
  cudaError_t code = cudaMalloc(&address, static_cast<size_t>(size));
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // forgets the failure
    free_all_kept();
    code = cudaMalloc(&address, static_cast<size_t>(size));
  }
  CLIP_CHECK(code != cudaErrorMemoryAllocation, "[cuda] no GPU memory left for ", size,
             " bytes; try a smaller batch");
  check_cuda(code, "allocate");
  block_sizes_.emplace(address, size);
  return address;
}

void DeviceMemory::release(void* address) noexcept {
  const std::lock_guard lock(mutex_);
  try {
    free_blocks_.emplace(block_sizes_.at(address), address);
  } catch (const std::bad_alloc&) {
    // The list could not grow: the block stays in block_sizes_ until the end.
  }
}

HostStaging::HostStaging() {
  void* ring = nullptr;
  check_cuda(cudaMallocHost(&ring, kRingBytes), "copy_from_host");
  ring_ = static_cast<char*>(ring);
}

HostStaging::~HostStaging() {
  for (const Region& region : in_flight_) cudaEventDestroy(region.copied);
  for (const cudaEvent_t event : free_events_) cudaEventDestroy(event);
  cudaFreeHost(ring_);
}

/// Where `bytes` of the ring are free, once what was there has been copied.
int64_t HostStaging::take_region(int64_t bytes) {
  const int64_t begin = next_ + bytes <= kRingBytes ? next_ : 0, end = begin + bytes;
  const auto overlaps = [=](const Region& region) {
    return region.begin < end && begin < region.end;
  };
  while (std::any_of(in_flight_.begin(), in_flight_.end(), overlaps)) {
    check_cuda(cudaEventSynchronize(in_flight_.front().copied), "copy_from_host");
    free_events_.push_back(in_flight_.front().copied);
    in_flight_.pop_front();
  }
  next_ = end;
  return begin;
}

cudaEvent_t HostStaging::take_event() {
  cudaEvent_t event = nullptr;
  if (free_events_.empty()) {
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "copy_from_host");
  } else {
    event = free_events_.back();
    free_events_.pop_back();
  }
  return event;
}

void HostStaging::copy(void* to, const void* from, int64_t bytes, cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  for (int64_t at = 0; at < bytes; at += kChunkBytes) {
    const int64_t count = std::min(kChunkBytes, bytes - at), begin = take_region(count);
    std::memcpy(ring_ + begin, static_cast<const char*>(from) + at, static_cast<size_t>(count));
    check_cuda(cudaMemcpyAsync(static_cast<char*>(to) + at, ring_ + begin,
                               static_cast<size_t>(count), cudaMemcpyHostToDevice, stream),
               "copy_from_host");
    in_flight_.push_back({begin, begin + count, take_event()});
    check_cuda(cudaEventRecord(in_flight_.back().copied, stream), "copy_from_host");
  }
}

Uploads::Uploads(cudaStream_t compute) : compute_(compute) {
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "upload");
  for (cudaEvent_t* event : {&before_, &uploaded_})
    check_cuda(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "upload");
  check_cuda(cudaEventRecord(before_, compute_), "upload");
}

Uploads::~Uploads() {
  cudaStreamSynchronize(stream_);
  cudaEventDestroy(before_);
  cudaEventDestroy(uploaded_);
  cudaStreamDestroy(stream_);
}

void Uploads::copy(void* to, const void* from, int64_t bytes) {
  check_cuda(cudaStreamWaitEvent(stream_, before_, 0), "upload");
  staging_.copy(to, from, bytes, stream_);
  check_cuda(cudaEventRecord(uploaded_, stream_), "upload");
  check_cuda(cudaStreamWaitEvent(compute_, uploaded_, 0), "upload");
  check_cuda(cudaEventRecord(before_, compute_), "upload");
}

}  // namespace clip
