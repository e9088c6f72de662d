// Analytic gradients against central differences, in F64.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "autograd/tape.h"

namespace clip {

struct GradientCheckOptions {
  double step = 1e-6;
  double tolerance = 1e-8;  ///< on |analytic - numeric|, relative to max(1, |numeric|)
  int64_t elements =
      150;  ///< checked one by one in each input (all if it has no more), the rest by directions
  uint64_t seed = 1;
};

/// Compares d <outputs, random cotangents> / d inputs with central differences: element by element,
/// and along random directions through each whole input. names    one for each input, for the
/// report returns  empty, or one line for each of the first mismatches: name, index, analytic and
/// numeric value
std::string check_gradients(const std::function<std::vector<Variable>()>& function,
                            const std::vector<Variable>& inputs,
                            const std::vector<std::string>& names,
                            const GradientCheckOptions& options = {});

}  // namespace clip
