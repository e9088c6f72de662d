// Ours against the stored values of other programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/clip.h"

namespace clip {

/// A file of tests/reference/.
nlohmann::json reference_values(const char* file);

/// tolerance    relative to the largest expected value; a NaN fails
void expect_near(const std::vector<double>& ours, const std::vector<double>& theirs,
                 double tolerance);

/// expected: length, and two projections on random directions of that name, so that an error in any
/// element shows. tolerance: relative to the length, of at least 1e-3
void expect_signature(const std::string& name, const std::vector<double>& values,
                      const std::vector<double>& expected, double tolerance);

/// Every parameter's gradient, and none too few.
void expect_gradients(const ParameterList& parameters, const nlohmann::json& signatures,
                      double tolerance);

/// tiny_training() of the model: losses within the tolerance, norms within ten times as much.
void expect_training(ClipModel& model, const nlohmann::json& expected, double tolerance);

}  // namespace clip
