// One line per differentiable op buys a gradient check, a determinism check, F32 and BF16 held
// against F64, parity between devices, and a benchmark.
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
  /// So many inputs, the first, are activations; the others are parameters, which have F32
  /// gradients in BF16. kFeatures: all are what stays in F32 beside BF16.
  int64_t activations = 1;
  static constexpr int64_t kFeatures = -1;
};

const std::vector<OpCase>& op_cases();

/// Inputs of these shapes: normal numbers from (seed, input, index), each its own Variable that
/// wants a gradient.
std::vector<Variable> random_inputs(const OpCase& op, const OpCase::Shapes& shapes, DType dtype,
                                    Backend& backend, uint64_t seed);
/// The same numbers in F64.
std::vector<Variable> in_f64(const std::vector<Variable>& inputs);
Tensor random_tensor(const Shape& shape, DType dtype, Backend& backend, uint64_t seed,
                     uint64_t stream);

/// Outputs, then the inputs' gradients for random cotangents that every float dtype holds exactly.
std::vector<Tensor> outputs_and_gradients(const OpCase& op, const std::vector<Variable>& inputs);

/// GoogleTest prints a failing case by its name.
inline void PrintTo(const OpCase& op, std::ostream* out) { *out << op.name; }

}  // namespace clip
