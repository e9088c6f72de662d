// What programs tell of accuracies.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/accuracy.h"

namespace clip {

/// Prints top-1, top-5 and the mean per class, three lines.
void print_accuracy(const Accuracy& accuracy);

/// Prints a line for each class that has pictures, the worst first: its recall, and what it was most
/// often taken for.
void print_per_class(const Accuracy& accuracy, const std::vector<std::string>& classes);

/// {"top1", "top5", "mean_per_class", "pictures", "broken", "per_class": {class: recall, or null if it
/// has no picture}}
nlohmann::ordered_json to_json(const Accuracy& accuracy, const std::vector<std::string>& classes,
                               int64_t broken);

}  // namespace clip
