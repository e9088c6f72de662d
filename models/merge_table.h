// A map of two symbols to the symbol they make, for a tokenizer's innermost loop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace clip {

/// Open addressing with room for as many rules as it was made for.
class MergeTable {
 public:
  static constexpr int32_t kNone = -1;

  explicit MergeTable(size_t rules) {
    while ((size_t{1} << bits_) < 2 * rules) ++bits_;
    slots_.resize(size_t{1} << bits_);
  }

  void add(int32_t left, int32_t right, int32_t merged) {
    const uint64_t pair = key(left, right);
    size_t at = first_slot(pair);
    while (slots_[at].merged != kNone) at = next_slot(at);
    slots_[at] = {pair, merged};
  }

  /// kNone if the two are not merged.
  int32_t find(int32_t left, int32_t right) const {
    const uint64_t pair = key(left, right);
    size_t at = first_slot(pair);
    while (slots_[at].merged != kNone && slots_[at].pair != pair) at = next_slot(at);
    return slots_[at].merged;
  }

 private:
  struct Slot {
    uint64_t pair = 0;
    int32_t merged = kNone;
  };

  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }
  // Fibonacci hashing: the upper bits of the product depend on all of the key.
  size_t first_slot(uint64_t pair) const {
    return static_cast<size_t>((pair * 0x9E3779B97F4A7C15) >> (64 - bits_));
  }
  size_t next_slot(size_t at) const { return (at + 1) & (slots_.size() - 1); }

  unsigned bits_ = 4;
  std::vector<Slot> slots_;
};

}  // namespace clip
