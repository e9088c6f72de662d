#include "apps/common/accuracy_report.h"

#include <algorithm>
#include <iomanip>
#include <iostream>
#include <numeric>
#include <utility>

#include "apps/common/percent.h"
#include "apps/common/program.h"

namespace clip {

void print_accuracy(const Accuracy& accuracy) {
  std::cout << "  top-1           " << percent(accuracy.top1.value())
            << "   (95 %: " << percent(accuracy.top1.low()) << " to "
            << percent(accuracy.top1.high()) << ")\n  top-5           "
            << percent(accuracy.top5.value()) << "\n  mean per class  "
            << percent(accuracy.mean_per_class()) << '\n';
}

void print_per_class(const Accuracy& accuracy, const std::vector<std::string>& classes) {
  std::vector<size_t> order(classes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::erase_if(order, [&](size_t c) { return accuracy.per_class[c].tried == 0; });
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return accuracy.per_class[a].value() < accuracy.per_class[b].value();
  });
  size_t width = 0;
  for (const size_t c : order) width = std::max(width, classes[c].size());
  std::cout << "Each class, the worst first\n";
  for (const size_t c : order) {
    const Proportion& share = accuracy.per_class[c];
    const auto& mistakes = accuracy.mistakes[c];
    std::cout << percent(share.value()) << std::setw(8) << share.correct << " of " << std::left
              << std::setw(8) << share.tried;
    const std::string name = one_line(classes[c]);
    if (mistakes.empty()) {
      std::cout << name;
    } else {
      const auto most =
          std::max_element(mistakes.begin(), mistakes.end(),
                           [](const auto& a, const auto& b) { return a.second < b.second; });
      std::cout << std::setw(static_cast<int>(width)) << name << "  taken for "
                << one_line(classes[static_cast<size_t>(most->first)]) << ": " << most->second;
    }
    std::cout << std::right << '\n';
  }
}

nlohmann::ordered_json to_json(const Accuracy& accuracy, const std::vector<std::string>& classes,
                               int64_t broken) {
  // Appended: [] of an ordered object looks through all keys.
  nlohmann::ordered_json::object_t per_class;
  for (size_t i = 0; i < classes.size(); ++i) {
    const Proportion& share = accuracy.per_class[i];
    nlohmann::ordered_json value;
    if (share.tried > 0) value = share.value();
    per_class.push_back({classes[i], std::move(value)});
  }
  return {{"top1", accuracy.top1.value()},
          {"top5", accuracy.top5.value()},
          {"mean_per_class", accuracy.mean_per_class()},
          {"pictures", accuracy.top1.tried},
          {"broken", broken},
          {"per_class", std::move(per_class)}};
}

}  // namespace clip
