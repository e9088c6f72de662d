// What a computation keeps in memory.
#pragma once

#include <algorithm>

#include "engine/cpu/cpu_backend.h"

namespace clip {

/// Counts the bytes of the tensors that live.
class CountingBackend : public CpuBackend {
 public:
  void* allocate(int64_t bytes) override {
    now_ += bytes;
    peak_ = std::max(peak_, now_);
    return CpuBackend::allocate(bytes);
  }
  void release(void* address, int64_t bytes) noexcept override {
    now_ -= bytes;
    CpuBackend::release(address, bytes);
  }
  int64_t now() const { return now_; }
  int64_t peak() const { return peak_; }

 private:
  int64_t now_ = 0, peak_ = 0;
};

}  // namespace clip
