// How good a model is: retrieval between pictures and captions, linear probes.
#include <iostream>

#include "apps/common/evaluation.h"

namespace clip {
namespace {

constexpr const char* kUsage =
    "Usage: ./apps/evaluate WORD OPTIONS; WORD --help lists the options\n"
    "  retrieval       recall at 1, 5 and 10 between pictures and their captions\n"
    "  linear_probe    accuracy of a logistic regression on the features of pictures\n"
    "Zero-shot accuracies: ./apps/zero_shot --data\n";

void evaluate(int argc, const char* const* argv) {
  const std::string word = argc > 1 ? argv[1] : "";
  if (word == "retrieval") return evaluate_retrieval_word(argc - 1, argv + 1);
  if (word == "linear_probe") return evaluate_linear_probe_word(argc - 1, argv + 1);
  if (word == "--help") {
    std::cout << kUsage;
    return;
  }
  throw UsageError(concat("the first word must be retrieval or linear_probe, got '", word, "'"));
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  return clip::run_program("evaluate", [&] { clip::evaluate(argc, argv); });
}
