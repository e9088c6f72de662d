#include "engine/cpu/packed_weights.h"

#include <algorithm>

#include "engine/parallel.h"

namespace clip {
namespace {

// Of a task. Few rows are not shared out among tasks: each would read the weight anew.
constexpr int64_t kPartColumns = 192, kMostRows = 128;

}  // namespace

PackedWeight::PackedWeight(const Tensor& weight) : n_(weight.rows()), k_(weight.width()) {
  for (int64_t first = 0; first < n_; first += kPartColumns) {
    const Tensor part = weight.slice(first, std::min(n_, first + kPartColumns));
    parts_.emplace_back(weight.dtype(), Transpose::kYes, k_, part.rows(), part.raw(), k_);
  }
}

template <class A, class C>
void PackedWeight::multiply(C* c, const A* a, int64_t rows) const {
  const auto parts = static_cast<int64_t>(parts_.size());
  const int64_t blocks = (rows + kMostRows - 1) / kMostRows;
  const int64_t rows_each = (rows + blocks - 1) / blocks;
  parallel_for_dynamic(blocks * parts, [&](int64_t task) {
    const int64_t part = task / blocks, first = task % blocks * rows_each;
    const int64_t count = std::min(rows_each, rows - first), column = part * kPartColumns;
    const OnednnPacked& weight = parts_[static_cast<size_t>(part)];
    if (parts == 1) return weight.multiply(count, a + first * k_, c + first * n_);
    const int64_t width = std::min(kPartColumns, n_ - column);
    thread_local std::vector<C> block;
    block.resize(static_cast<size_t>(kMostRows * kPartColumns));
    weight.multiply(count, a + first * k_, block.data());
    for (int64_t row = 0; row < count; ++row)
      std::copy_n(block.data() + row * width, width, c + (first + row) * n_ + column);
  });
}

void PackedWeight::multiply(Tensor& c, const Tensor& a) const {
  if (a.dtype() == DType::kF32) {
    multiply(c.data<float>(), a.data<float>(), c.rows());
  } else if (c.dtype() == DType::kF32) {
    multiply(c.data<float>(), a.data<BF16>(), c.rows());
  } else {
    multiply(c.data<BF16>(), a.data<BF16>(), c.rows());
  }
}

void PackedWeights::begin(const Tensor& weight) {
  const std::lock_guard lock(mutex_);
  entries_[weight.raw()].weight = weight;
}

void PackedWeights::end(const Tensor& weight) noexcept {
  const std::lock_guard lock(mutex_);
  entries_.erase(weight.raw());
}

const PackedWeight* PackedWeights::find(const Tensor& weight) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(weight.raw());
  if (found == entries_.end()) return nullptr;
  Entry& entry = found->second;
  if (!has_shape(weight, entry.weight.shape()) || weight.dtype() != entry.weight.dtype())
    return nullptr;  // some of its rows
  if (!entry.packed) entry.packed.emplace(weight);
  return &*entry.packed;
}

}  // namespace clip
