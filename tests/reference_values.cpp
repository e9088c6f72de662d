#include "tests/reference_values.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "engine/random.h"
#include "tests/reference_path.h"
#include "tests/tiny_clip.h"

namespace clip {

nlohmann::json reference_values(const char* file) {
  return nlohmann::json::parse(std::ifstream(reference_path(file)));
}

void expect_near(const std::vector<double>& ours, const std::vector<double>& theirs,
                 double tolerance) {
  ASSERT_EQ(ours.size(), theirs.size());
  double largest = 0;
  for (double value : theirs) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < ours.size(); ++i)
    ASSERT_NEAR(ours[i], theirs[i], tolerance * largest) << "at " << i;
}

void expect_signature(const std::string& name, const std::vector<double>& values,
                      const std::vector<double>& expected, double tolerance) {
  double squares = 0;
  for (double value : values) squares += value * value;
  const double length = std::sqrt(squares), allowed = tolerance * std::max(expected[0], 1e-3);
  EXPECT_NEAR(length, expected[0], allowed) << name;
  for (size_t k = 1; k < expected.size(); ++k) {
    Random random(1, random_stream(concat(name, ' ', k - 1)));
    double along = 0;
    for (double value : values) along += value * random.uniform(-1, 1);
    EXPECT_NEAR(along, expected[k], allowed * std::sqrt(static_cast<double>(values.size())))
        << name;
  }
}

void expect_gradients(const ParameterList& parameters, const nlohmann::json& signatures,
                      double tolerance) {
  EXPECT_EQ(signatures.size(), parameters.parameters().size());
  for (const Parameter& parameter : parameters.parameters()) {
    ASSERT_TRUE(parameter.variable.has_grad()) << parameter.name;
    ASSERT_TRUE(signatures.contains(parameter.name)) << parameter.name;
    expect_signature(parameter.name, to_doubles(parameter.variable.grad()),
                     signatures[parameter.name], tolerance);
  }
}

void expect_training(ClipModel& model, const nlohmann::json& expected, double tolerance) {
  const std::vector<StepMetrics> steps = tiny_training(model);
  for (size_t step = 0; step < steps.size(); ++step) {
    EXPECT_NEAR(steps[step].loss(), expected["losses"][step].get<double>(), tolerance)
        << "step " << step;
    const double norm = expected["gradient_norms"][step];
    EXPECT_NEAR(steps[step].gradient_norm(), norm, 10 * tolerance * norm) << "step " << step;
  }
  EXPECT_NEAR(model.clip.logit_scale.value().item(), expected["logit_scale"].get<double>(),
              tolerance);
}

}  // namespace clip
