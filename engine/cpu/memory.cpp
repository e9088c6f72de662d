// The CPU's memory: aligned blocks, kept by size for the next step, which asks for the same sizes again.
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <string>

#include "engine/block_size.h"
#include "engine/cpu/cpu_backend.h"
#include "engine/parallel.h"

namespace clip {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kCopyBlock = 1 << 18;  // bytes per task of a parallel copy

template <class Body>
void for_byte_blocks(int64_t bytes, const Body& body) {
  const int64_t blocks = (bytes + kCopyBlock - 1) / kCopyBlock;
  parallel_for(blocks, [&](int64_t block) {
    const int64_t begin = block * kCopyBlock;
    body(begin, std::min(kCopyBlock, bytes - begin));
  });
}

}  // namespace

CpuBackend::~CpuBackend() {
  for (auto& [size, blocks] : free_blocks_)
    for (void* block : blocks) std::free(block);
}

Device CpuBackend::device() const { return {}; }

std::string CpuBackend::name() const {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "a processor";
}

void* CpuBackend::allocate(int64_t bytes) {
  const int64_t size = block_size(bytes, kAlignment);
  {
    std::lock_guard lock(mutex_);
    auto found = free_blocks_.find(size);
    if (found != free_blocks_.end() && !found->second.empty()) {
      void* block = found->second.back();
      found->second.pop_back();
      return block;
    }
  }
  void* block = std::aligned_alloc(kAlignment, static_cast<size_t>(size));
  CLIP_CHECK(block != nullptr, "[cpu] no memory left for ", size, " bytes; try a smaller batch");
  return block;
}

void CpuBackend::release(void* address, int64_t bytes) noexcept {
  const int64_t size = block_size(bytes, kAlignment);
  try {
    std::lock_guard lock(mutex_);
    free_blocks_[size].push_back(address);
  } catch (const std::bad_alloc&) {
    std::free(address);  // the list could not grow
  }
}

void CpuBackend::copy_from_host(void* to, const void* from, int64_t bytes) {
  for_byte_blocks(bytes, [&](int64_t begin, int64_t count) {
    std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin,
                static_cast<size_t>(count));
  });
}

void CpuBackend::copy_to_host(void* to, const void* from, int64_t bytes) {
  copy_from_host(to, from, bytes);
}

void CpuBackend::upload(Tensor& to, const void* host) {
  copy_from_host(to.raw(), host, to.bytes());
}

void CpuBackend::copy(Tensor& to, const Tensor& from) {
  copy_from_host(to.raw(), from.raw(), from.bytes());
}

void CpuBackend::fill_zero(Tensor& x) {
  char* bytes = static_cast<char*>(x.raw());
  for_byte_blocks(x.bytes(), [&](int64_t begin, int64_t count) {
    std::memset(bytes + begin, 0, static_cast<size_t>(count));
  });
}

void CpuBackend::synchronize() {}

Backend& cpu_backend() {
  // Never destroyed: tensors of static lifetime may outlive any order of destruction.
  static CpuBackend& backend = *new CpuBackend;  // NOLINT
  return backend;
}

}  // namespace clip
