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
  try {
    for (Slot& slot : slots_) {
      check_cuda(cudaMallocHost(&slot.pinned, kSlotBytes), "copy_from_host");
      check_cuda(cudaEventCreateWithFlags(&slot.copied, cudaEventDisableTiming), "copy_from_host");
    }
  } catch (...) {
    free_slots();
    throw;
  }
}

HostStaging::~HostStaging() { free_slots(); }

void HostStaging::free_slots() noexcept {
  for (Slot& slot : slots_) {
    if (slot.copied != nullptr) cudaEventDestroy(slot.copied);
    if (slot.pinned != nullptr) cudaFreeHost(slot.pinned);
  }
}

void HostStaging::copy(void* to, const void* from, int64_t bytes, cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  for (int64_t at = 0; at < bytes; at += kSlotBytes) {
    const auto count = static_cast<size_t>(std::min(kSlotBytes, bytes - at));
    const Slot& slot = slots_[next_];
    next_ = (next_ + 1) % slots_.size();
    check_cuda(cudaEventSynchronize(slot.copied), "copy_from_host");  // at once on first use
    std::memcpy(slot.pinned, static_cast<const char*>(from) + at, count);
    check_cuda(cudaMemcpyAsync(static_cast<char*>(to) + at, slot.pinned, count,
                               cudaMemcpyHostToDevice, stream),
               "copy_from_host");
    check_cuda(cudaEventRecord(slot.copied, stream), "copy_from_host");
  }
}

}  // namespace clip
