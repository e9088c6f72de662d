// Sizes of memory blocks that are kept for the next tensor.
#pragma once

#include <algorithm>
#include <cstdint>

namespace clip {

/// `bytes` rounded up to a multiple of `unit`, doubled as long as it stays below a sixteenth: ragged
/// text batches then find the blocks of the step before, and at most an eighth is wasted.
inline int64_t block_size(int64_t bytes, int64_t unit) {
  bytes = std::max<int64_t>(bytes, 1);
  while (unit * 16 <= bytes) unit *= 2;
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace clip
