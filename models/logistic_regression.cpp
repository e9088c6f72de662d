#include "models/logistic_regression.h"

#include <lbfgs.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <utility>

#include "engine/backend.h"
#include "engine/parallel.h"
#include "engine/random.h"

namespace clip {
namespace {

constexpr int64_t kTile = 2048;  // rows whose logits are in memory at once

/// Runs body(T()) for the type of the features.
template <class Body>
void with_type_of(const Tensor& features, const Body& body) {
  if (features.dtype() == DType::kF64) {
    body(double());
  } else {
    body(float());
  }
}

template <class T>
bool all_finite(const Tensor& x) {
  return std::all_of(x.data<T>(), x.data<T>() + x.numel(), [](T v) { return std::isfinite(v); });
}

/// One row: its cross-entropy; logits become softmax - [k = label].
template <class T>
double softmax_row(T* logits, const double* bias, int64_t classes, int64_t label) {
  double largest = -std::numeric_limits<double>::infinity(), total = 0;
  for (int64_t k = 0; k < classes; ++k)
    largest = std::max(largest, static_cast<double>(logits[k]) + bias[k]);
  for (int64_t k = 0; k < classes; ++k)
    total += std::exp(static_cast<double>(logits[k]) + bias[k] - largest);
  const double log_sum = largest + std::log(total);
  const double loss = log_sum - static_cast<double>(logits[label]) - bias[label];
  for (int64_t k = 0; k < classes; ++k) {
    const double p = std::exp(static_cast<double>(logits[k]) + bias[k] - log_sum);
    logits[k] = static_cast<T>(k == label ? p - 1 : p);
  }
  return loss;
}

}  // namespace

LogisticObjective::LogisticObjective(Tensor features, std::vector<int64_t> labels, int64_t classes,
                                     double lambda)
    : features_(std::move(features)),
      labels_(std::move(labels)),
      classes_(classes),
      penalty_(classes == 2 ? 2 * lambda : lambda) {
  CLIP_CHECK(features_.size(0) > 0 && features_.size(0) == std::ssize(labels_),
             "[logistic_regression] needs at least one row and a label for each, got ",
             features_.size(0), " rows and ", labels_.size(), " labels");
  CLIP_CHECK(classes >= 2, "[logistic_regression] needs two classes or more, got ", classes);
  CLIP_CHECK(std::isfinite(lambda) && lambda >= 0,
             "[logistic_regression] lambda must be finite and not negative, got ", lambda);
  for (const int64_t label : labels_)
    CLIP_CHECK(label >= 0 && label < classes, "[logistic_regression] labels must be 0 to ",
               classes - 1, ", got ", label);
  bool finite = false;
  with_type_of(features_, [&](auto type) { finite = all_finite<decltype(type)>(features_); });
  CLIP_CHECK(finite, "[logistic_regression] a feature is NaN or infinite");
  const auto like_features = [&](const Shape& shape) {
    return Tensor::empty(cpu_backend(), shape, features_.dtype());
  };
  const int64_t tile = std::min(kTile, features_.size(0));
  weight_ = like_features({classes_, width()});
  dweight_ = like_features({classes_, width()});
  logits_ = like_features({tile, classes_});
  losses_.resize(static_cast<size_t>(tile));
}

/// Adds a tile's gradient; returns the sum of its losses.
double LogisticObjective::add_tile(int64_t begin, int64_t end, const double* bias,
                                   double* gradient) {
  const int64_t rows = end - begin, width = this->width();
  const Tensor x = features_.slice(begin, end);
  Tensor logits = logits_.slice(0, rows);
  Backend& backend = cpu_backend();
  backend.matmul(logits, x, Transpose::kNo, weight_, Transpose::kYes, {});
  with_type_of(features_, [&](auto type) {
    using T = decltype(type);
    T* residuals = logits.data<T>();
    parallel_for(rows, [&](int64_t row) {
      losses_[static_cast<size_t>(row)] = softmax_row(residuals + row * classes_, bias, classes_,
                                                      labels_[static_cast<size_t>(begin + row)]);
    });
    backend.matmul(dweight_, logits, Transpose::kYes, x, Transpose::kNo, {});
    // Tiles are added in F64: their number must not cost precision.
    double* dbias = gradient + classes_ * width;
    parallel_for(classes_, [&](int64_t k) {
      const T* from = dweight_.data<T>() + k * width;
      for (int64_t c = 0; c < width; ++c) gradient[k * width + c] += static_cast<double>(from[c]);
      for (int64_t row = 0; row < rows; ++row)
        dbias[k] += static_cast<double>(residuals[row * classes_ + k]);
    });
  });
  return std::accumulate(losses_.begin(), losses_.begin() + rows, 0.0);
}

double LogisticObjective::operator()(const double* parameters, double* gradient) {
  const int64_t rows = features_.size(0), weights = classes_ * width();
  with_type_of(features_, [&](auto type) {
    using T = decltype(type);
    std::transform(parameters, parameters + weights, weight_.data<T>(),
                   [](double value) { return static_cast<T>(value); });
  });
  std::fill_n(gradient, this->parameters(), 0.0);
  double sum = 0;
  for (int64_t begin = 0; begin < rows; begin += kTile)
    sum += add_tile(begin, std::min(begin + kTile, rows), parameters + weights, gradient);
  double squares = 0;
  for (int64_t i = 0; i < weights; ++i) {
    squares += parameters[i] * parameters[i];
    gradient[i] += penalty_ * parameters[i];
  }
  const double count = static_cast<double>(rows);
  for (int64_t i = 0; i < this->parameters(); ++i) gradient[i] /= count;
  return (sum + penalty_ / 2 * squares) / count;
}

namespace {

/// What libLBFGS hands back to its callbacks. Nothing may be thrown through its C frames.
struct Run {
  LogisticObjective& objective;
  std::exception_ptr error = nullptr;
  int64_t iterations = 0;
};

double evaluate(void* instance, const double* x, double* gradient, int, double) {
  Run& run = *static_cast<Run*>(instance);
  try {
    if (!run.error) return run.objective(x, gradient);
  } catch (...) {
    run.error = std::current_exception();
  }
  return std::numeric_limits<double>::quiet_NaN();
}

int count_iteration(void* instance, const double*, const double*, double, double, double, double,
                    int, int iteration, int) {
  static_cast<Run*>(instance)->iterations = iteration;
  return 0;
}

/// Whether the minimum was reached; throws if there is no result.
bool check_status(int status) {
  if (status == LBFGSERR_OUTOFMEMORY) throw std::bad_alloc();
  // The line search finds no better place: F32 products have no more digits to give.
  constexpr int kBestFound[] = {LBFGSERR_MAXIMUMITERATION,  LBFGSERR_ROUNDING_ERROR,
                                LBFGSERR_MINIMUMSTEP,       LBFGSERR_MAXIMUMLINESEARCH,
                                LBFGSERR_WIDTHTOOSMALL,     LBFGSERR_OUTOFINTERVAL,
                                LBFGSERR_INCORRECT_TMINMAX, LBFGSERR_INCREASEGRADIENT};
  CLIP_CHECK(status >= 0 || std::count(std::begin(kBestFound), std::end(kBestFound), status) > 0,
             "[logistic_regression] libLBFGS failed with status ", status);
  return status >= 0;
}

}  // namespace

LogisticFit fit_logistic_regression(const Tensor& features, const std::vector<int64_t>& labels,
                                    int64_t classes, const LogisticOptions& options) {
  LogisticObjective objective(features, labels, classes, options.lambda);
  const int64_t count = objective.parameters(), weights = classes * objective.width();
  CLIP_CHECK(count <= std::numeric_limits<int>::max() / 2,
             "[logistic_regression] has too many parameters: ", count);
  lbfgs_parameter_t parameters;
  lbfgs_parameter_init(&parameters);
  parameters.epsilon = options.tolerance;
  parameters.max_iterations =
      static_cast<int>(std::min<int64_t>(options.max_iterations, std::numeric_limits<int>::max()));
  parameters.m = 10;  // corrections, as many as SciPy keeps
  parameters.max_linesearch = 20;

  const std::unique_ptr<double, decltype(&lbfgs_free)> x(lbfgs_malloc(static_cast<int>(count)),
                                                         lbfgs_free);
  if (x == nullptr) throw std::bad_alloc();
  std::fill_n(x.get(), count, 0.0);
  Run run{objective};
  LogisticFit fit;
  const int status = lbfgs(static_cast<int>(count), x.get(), nullptr, evaluate, count_iteration,
                           &run, &parameters);
  if (run.error) std::rethrow_exception(run.error);
  fit.converged = check_status(status);
  fit.iterations = run.iterations;
  fit.classifier.weight = Tensor::from<double>(cpu_backend(), {classes, objective.width()},
                                               std::vector(x.get(), x.get() + weights));
  fit.classifier.bias.assign(x.get() + weights, x.get() + count);
  return fit;
}

std::vector<std::vector<int64_t>> LinearClassifier::ranked(const Tensor& features,
                                                           int64_t count) const {
  const int64_t classes = weight.size(0);
  Tensor weights = Tensor::empty(cpu_backend(), weight.shape(), features.dtype());
  cpu_backend().convert(weights, weight);
  std::vector<std::vector<int64_t>> all;
  for (int64_t begin = 0; begin < features.size(0); begin += kTile) {
    const Tensor x = features.slice(begin, std::min(begin + kTile, features.size(0)));
    Tensor logits = Tensor::empty(cpu_backend(), {x.size(0), classes}, features.dtype());
    cpu_backend().matmul(logits, x, Transpose::kNo, weights, Transpose::kYes, {});
    with_type_of(features, [&](auto type) {
      for (int64_t row = 0; row < x.size(0); ++row) {
        const auto* at = logits.data<decltype(type)>() + row * classes;
        const auto logit = [&](int64_t k) {
          return static_cast<double>(at[k]) + bias[static_cast<size_t>(k)];
        };
        std::vector<int64_t> order(static_cast<size_t>(classes));
        std::iota(order.begin(), order.end(), int64_t{0});
        const auto middle = order.begin() + std::min(count, classes);
        std::partial_sort(order.begin(), middle, order.end(), [&](int64_t a, int64_t b) {
          return logit(a) != logit(b) ? logit(a) > logit(b) : a < b;
        });
        all.emplace_back(order.begin(), middle);
      }
    });
  }
  return all;
}

std::vector<SweepStep> sweep_lambda(const std::function<double(double lambda)>& accuracy) {
  constexpr int kStepsPerDecade = 8, kLast = 6 * kStepsPerDecade;  // 1e6; 1e-6 is -kLast
  std::map<int, SweepStep> tried;
  const auto attempt = [&](int step) {
    if (step < -kLast || step > kLast || tried.contains(step)) return;
    const double lambda = std::pow(10.0, static_cast<double>(step) / kStepsPerDecade);
    tried[step] = {lambda, accuracy(lambda)};
  };
  int interval = 2 * kStepsPerDecade;
  for (int step = -kLast; step <= kLast; step += interval) attempt(step);
  while (interval > 1) {
    interval /= 2;
    int best = -kLast;
    for (const auto& [step, result] : tried)
      if (result.accuracy >= tried[best].accuracy) best = step;
    attempt(best - interval);
    attempt(best + interval);
  }
  std::vector<SweepStep> sweep;
  for (const auto& [step, result] : tried) sweep.push_back(result);
  return sweep;
}

SweepStep best_of(const std::vector<SweepStep>& sweep) {
  SweepStep best = sweep.at(0);
  for (const SweepStep& step : sweep)
    if (step.accuracy >= best.accuracy) best = step;
  return best;
}

std::vector<bool> validation_split(const std::vector<int64_t>& labels) {
  std::map<int64_t, std::vector<size_t>> samples;  // of each class
  for (size_t i = 0; i < labels.size(); ++i) samples[labels[i]].push_back(i);
  std::vector<bool> chosen(labels.size(), false);
  for (auto& [label, of_class] : samples) {
    Random random(0, static_cast<uint64_t>(label));
    const int64_t count = std::ssize(of_class);
    const int64_t wanted = count < 5 ? (count > 1 ? 1 : 0) : count / 5;
    for (int64_t i = 0; i < wanted; ++i) {
      std::swap(of_class[static_cast<size_t>(i)],
                of_class[static_cast<size_t>(i + random.below(count - i))]);
      chosen[of_class[static_cast<size_t>(i)]] = true;
    }
  }
  return chosen;
}

}  // namespace clip
