#include "tests/cudasim/shared_memory.h"

#include <cstring>
#include <new>

// The static __shared__ arrays of the program, if it has any.
extern "C" {
[[gnu::weak]] extern unsigned char __start_cudasim_shared[];
[[gnu::weak]] extern unsigned char __stop_cudasim_shared[];
}

namespace cudasim {
namespace {

constexpr unsigned char kPoison = 0xFF;
constexpr std::align_val_t kAlignment{128};

// Byte by byte through volatile: what lies between two arrays may be AddressSanitizer's, whose memset
// would report it.
void poison_static_shared() {
  if (!has_static_shared()) return;
  for (volatile unsigned char* byte = __start_cudasim_shared; byte != __stop_cudasim_shared; ++byte)
    *byte = kPoison;
}

}  // namespace

SharedMemory::SharedMemory(int64_t dynamic_bytes)
    : dynamic_(static_cast<unsigned char*>(
          ::operator new(static_cast<size_t>(dynamic_bytes), kAlignment))),
      bytes_(dynamic_bytes) {
  std::memset(dynamic_, kPoison, static_cast<size_t>(bytes_));
  poison_static_shared();
}

SharedMemory::~SharedMemory() { ::operator delete(dynamic_, kAlignment); }

bool SharedMemory::contains(const void* address, int64_t bytes) const {
  const auto lies_in = [&](const unsigned char* begin, const unsigned char* end) {
    const auto* first = static_cast<const unsigned char*>(address);
    return first >= begin && first + bytes <= end;
  };
  return lies_in(dynamic_, dynamic_ + bytes_) ||
         lies_in(__start_cudasim_shared, __stop_cudasim_shared);
}

bool has_static_shared() { return __start_cudasim_shared != nullptr; }

}  // namespace cudasim
