// The shared memory of one block, poisoned with 0xFF: NaN in every float type.
#pragma once

#include <cstdint>

namespace cudasim {

class SharedMemory {
 public:
  /// Fresh memory of exactly so many bytes, so that AddressSanitizer sees the first one beyond; the
  /// program's static arrays are poisoned too.
  explicit SharedMemory(int64_t dynamic_bytes);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  void* dynamic() const { return dynamic_; }
  bool contains(const void* address, int64_t bytes) const;

 private:
  unsigned char* dynamic_;
  int64_t bytes_;
};

/// Does the program have static __shared__ arrays?
bool has_static_shared();

}  // namespace cudasim
