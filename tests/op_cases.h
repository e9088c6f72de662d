// One line per differentiable op buys a gradient check, a determinism check, parity between
// devices, and a benchmark.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "autograd/ops.h"

namespace clip {

struct OpCase {
  using Shapes = std::vector<Shape>;
  std::string name;  ///< the op, then what is special about this case
  Shapes small;      ///< shapes of the float inputs for checks: ragged sizes
  Shapes large;      ///< for the benchmark; empty: none
  /// The op on inputs of either shapes; anything else it needs (offsets, pixels) follows from them.
  std::function<std::vector<Variable>(const std::vector<Variable>&)> run;
  /// Multiply-adds of the products, times two, for forward and backward; 0 where memory traffic is
  /// the cost.
  std::function<double(const Shapes&)> flop = [](const Shapes&) { return 0.0; };
};

const std::vector<OpCase>& op_cases();

/// Inputs of these shapes: normal numbers from (seed, input, index), each its own Variable that
/// wants a gradient.
std::vector<Variable> random_inputs(const OpCase::Shapes& shapes, DType dtype, Backend& backend,
                                    uint64_t seed);
Tensor random_tensor(const Shape& shape, DType dtype, Backend& backend, uint64_t seed,
                     uint64_t stream);

}  // namespace clip
