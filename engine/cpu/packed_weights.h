// Weights that do not change for a while, kept in the order that the products read them in.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/cpu/onednn.h"
#include "engine/tensor.h"

namespace clip {

/// The transpose of a weight [N, K] as the right factor of products.
class PackedWeight {
 public:
  explicit PackedWeight(const Tensor& weight);
  /// c [M, N] = a [M, K] weightᵀ; blocks depend on the sizes alone
  void multiply(Tensor& c, const Tensor& a) const;

 private:
  template <class A, class C>
  void multiply(C* c, const A* a, int64_t rows) const;

  int64_t n_, k_;
  std::vector<OnednnPacked> parts_;  // of kPartColumns columns of the products
};

/// Each constant weight is packed when it is first used.
class PackedWeights {
 public:
  void begin(const Tensor& weight);
  void end(const Tensor& weight) noexcept;
  /// The weight as right factor; null if it is not constant.
  const PackedWeight* find(const Tensor& weight);

 private:
  struct Entry {
    Tensor weight;
    std::optional<PackedWeight> packed;
  };
  std::mutex mutex_;
  std::map<const void*, Entry> entries_;  // by the weight's address
};

}  // namespace clip
