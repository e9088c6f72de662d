// Logistic regression on features that stay as they are: the paper's linear probe.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/tensor.h"

namespace clip {

/// logits [N, K] = x W^T + b.
struct LinearClassifier {
  Tensor weight;             ///< F64 [K, C] on the CPU
  std::vector<double> bias;  ///< [K]

  /// Classes of each row, the best first (ties: the lower class), `count` or as many as there are.
  /// features    F32 or F64 [N, C] on the CPU
  std::vector<std::vector<int64_t>> ranked(const Tensor& features, int64_t count) const;
};

/// 1/N of what scikit-learn's LogisticRegression minimises with C = 1 / lambda: the sum of the
/// softmax's cross-entropies, plus lambda/2 |W|^2. The bias is free. Two classes are, as there, one
/// weight vector, w1 - w0: lambda/2 of its square is lambda (|w0|^2 + |w1|^2) where w0 = -w1.
class LogisticObjective {
 public:
  /// features    F32 or F64 [N, C] on the CPU, N > 0: what its products are computed in
  /// labels      [N], 0 ... classes - 1
  /// throws      clip::Error if these do not fit, or a feature is not finite
  LogisticObjective(Tensor features, std::vector<int64_t> labels, int64_t classes, double lambda);

  int64_t parameters() const { return classes_ * (width() + 1); }
  int64_t width() const { return features_.width(); }

  /// The value and its gradient; the same bits on any number of threads.
  /// parameters, gradient    W [K, C], then b [K]
  double operator()(const double* parameters, double* gradient);

 private:
  double add_tile(int64_t begin, int64_t end, const double* bias, double* gradient);

  Tensor features_;
  std::vector<int64_t> labels_;
  int64_t classes_;
  double penalty_;                    ///< lambda, doubled for two classes
  Tensor weight_, logits_, dweight_;  ///< as the features: [K, C], [tile, K], [K, C]
  std::vector<double> losses_;        ///< of a tile's rows
};

struct LogisticOptions {
  double lambda = 1;
  int64_t max_iterations = 1000;
  /// L-BFGS stops where the gradient's length is below this times max(1, that of the parameters).
  double tolerance = 1e-5;
};

struct LogisticFit {
  LinearClassifier classifier;
  int64_t iterations = 0;
  /// false: stopped by max_iterations, or by the precision of the products
  bool converged = false;
};

/// From zero, by libLBFGS. Arguments and errors as of LogisticObjective.
LogisticFit fit_logistic_regression(const Tensor& features, const std::vector<int64_t>& labels,
                                    int64_t classes, const LogisticOptions& options);

/// What one regulariser gave.
struct SweepStep {
  double lambda = 0;
  double accuracy = 0;
};

/// The paper's search (appendix A.3): lambda = 1e-6, 1e-4, ..., 1e6, then the middles of the
/// intervals beside the best one, halved until there are 8 steps a decade. Of equal accuracies the
/// largest lambda is best.
///
/// accuracy    on a validation split, asked for once a lambda
/// returns     all that was tried, by lambda
std::vector<SweepStep> sweep_lambda(const std::function<double(double lambda)>& accuracy);
SweepStep best_of(const std::vector<SweepStep>& sweep);

/// Which samples to keep for validation: of each class one in five, chosen at random by the class
/// alone; a class of fewer than five keeps one if it has two.
std::vector<bool> validation_split(const std::vector<int64_t>& labels);

}  // namespace clip
