// How often classifiers are right.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "models/zero_shot.h"

namespace clip {

/// How often the right class is first, or among the first five.
struct Accuracy {
  explicit Accuracy(int64_t classes)
      : per_class(static_cast<size_t>(classes)), mistakes(static_cast<size_t>(classes)) {}

  /// One picture. ranked: classes, the most probable first; five, or as many as there are
  void count(int64_t label, std::span<const int64_t> ranked);

  /// The mean of the classes' recalls, over those that have pictures.
  double mean_per_class() const;

  Proportion top1, top5;
  std::vector<Proportion> per_class;                 ///< recall: top-1 of the class's pictures
  std::vector<std::map<int64_t, int64_t>> mistakes;  ///< of each class: which others, how often
};

}  // namespace clip
