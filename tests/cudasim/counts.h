// What a step of training should not do.
#pragma once

#include <cstdint>

namespace cudasim {

struct Counts {
  int64_t allocations = 0;  ///< calls of cudaMalloc
  int64_t waits = 0;        ///< calls with which the host waits for the GPU
};

/// Since the program started.
inline Counts& counts() {
  static Counts all;
  return all;
}

}  // namespace cudasim
