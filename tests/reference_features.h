// What another library computed with the weights in its file, and what we do.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/checkpoint.h"

namespace clip {

/// Largest difference of two numbers at one place, as a share of the largest of theirs; NaN where
/// either list holds a NaN.
double relative_difference(const std::vector<float>& ours, const std::vector<double>& theirs);

/// Largest difference of a component, as a share of the largest component, and whether every text
/// is most like the same picture, and every picture like the same text, in both.
struct FeatureDifference {
  double image = 0;
  double text = 0;
  bool same_matches = false;
};

/// Loads a model and computes the features of 4 pictures and 8 texts drawn as
/// reference/make_weights_reference.py draws them.
/// reference    {"image_features": [4 * E numbers], "text_features": [8 * E]}
FeatureDifference compare_features(const std::string& model, const WeightChoice& choice,
                                   const nlohmann::json& reference);

}  // namespace clip
