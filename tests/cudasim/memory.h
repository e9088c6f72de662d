// The allocations of the simulated device and of pinned host memory.
#pragma once

#include <cstdint>

namespace cudasim {

enum class Memory { kDevice, kPinned, kPageable };

Memory kind_of_memory(const void* address);
/// Is [address, address + bytes) inside one allocation of the device?
bool is_device_memory(const void* address, int64_t bytes);

}  // namespace cudasim
