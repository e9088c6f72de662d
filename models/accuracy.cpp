#include "models/accuracy.h"

#include <algorithm>

#include "engine/check.h"

namespace clip {

void Accuracy::count(int64_t label, std::span<const int64_t> ranked) {
  CLIP_CHECK(!ranked.empty(), "[accuracy] a picture needs an answer");
  const auto first_five = ranked.first(std::min<size_t>(5, ranked.size()));
  const bool right = ranked[0] == label;
  const auto at = static_cast<size_t>(label);
  top1.count(right);
  top5.count(std::find(first_five.begin(), first_five.end(), label) != first_five.end());
  per_class.at(at).count(right);
  if (!right) ++mistakes.at(at)[ranked[0]];
}

double Accuracy::mean_per_class() const {
  double sum = 0, classes = 0;
  for (const Proportion& share : per_class) {
    if (share.tried == 0) continue;
    sum += share.value();
    classes += 1;
  }
  return classes == 0 ? 0 : sum / classes;
}

}  // namespace clip
