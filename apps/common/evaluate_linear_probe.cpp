#include <cmath>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <map>
#include <numeric>

#include "apps/common/accuracy_report.h"
#include "apps/common/evaluation.h"
#include "apps/common/option_values.h"
#include "apps/common/percent.h"
#include "models/labelled_pictures.h"
#include "models/logistic_regression.h"

namespace po = boost::program_options;

namespace clip {
namespace {

using Labels = std::vector<int64_t>;

constexpr const char* kUsage =
    "A logistic regression on the image tower's features, as the paper's appendix A.3 has it: of a "
    "ViT\nthose before the projection, of a ResNet those of its attention pool; L-BFGS, at most "
    "1000\niterations; lambda from 1e-6 to 1e6 by the accuracy on the validation pictures, in "
    "steps "
    "of an eighth\nof a decade; then once more on training and validation pictures together.\n"
    "Examples:\n"
    "  ./apps/evaluate linear_probe --checkpoint ViT-B-32.pt --train cifar-10-batches-bin/ --test "
    "cifar-10-batches-bin/\n"
    "  ./apps/evaluate linear_probe --checkpoint runs/first --train train/ --test test/ --c "
    "0.316\n";

po::options_description option_list() {
  const auto text = [](const std::string& value = "") {
    return po::value<std::string>()->default_value(value);
  };
  const CsvOptions csv;
  po::options_description options("Options");
  // clang-format off
  options.add_options()
    ("train", text(), "pictures to learn from: a folder with a subfolder per class, the files of CIFAR or MNIST (their "
                      "training split), a .csv or .tsv file, or .tar shards (a .cls beside each picture)")
    ("test", text(), "pictures to report on, likewise (CIFAR's and MNIST's test split)")
    ("validation", text(), "pictures to choose lambda by, likewise; empty: one in five of each class of --train")
    ("lambda", po::value<double>(), "this lambda, without a sweep: cross-entropies are summed, and lambda/2 |w|^2 added")
    ("c", po::value<double>(), "the same as scikit-learn has it: C = 1 / lambda")
    ("max-iterations", po::value<int64_t>()->default_value(1000), "of L-BFGS")
    ("projected", po::bool_switch(), "features after the projection, as encode_image gives them")
    ("per-class", po::bool_switch(), "a line for each class too, the worst first (--json has them always)")
    ("csv-img-key", text(csv.image_key), "CSV column of the picture's path")
    ("csv-label-key", text("label"), "CSV column of the class")
    ("csv-separator", text(), "one character; empty: tab or comma, as the header has it");
  // clang-format on
  add_evaluation_options(options);
  return options;
}

std::optional<double> fixed_lambda(const po::variables_map& values) {
  if (values.count("lambda") > 0 && values.count("c") > 0)
    throw UsageError("--c and --lambda both fix the regulariser; give one of them");
  for (const char* option : {"lambda", "c"}) {
    if (values.count(option) == 0) continue;
    const auto value = values[option].as<double>();
    if (!(value > 0)) throw UsageError(concat("--", option, " must be above 0, got ", value));
    if (!std::isfinite(value) || !std::isfinite(1 / value))
      throw UsageError(concat("--", option, " and its inverse must be finite, got ", value));
    if (!values["validation"].as<std::string>().empty())
      throw UsageError(
          concat("--validation chooses lambda, which --", option, " fixes; give one of them"));
    return *option == 'c' ? 1 / value : value;
  }
  return std::nullopt;
}

LabelledPictures open_pictures(const po::variables_map& values, const std::string& option,
                               Split split) {
  const auto text = [&](const std::string& name) { return values[name].as<std::string>(); };
  if (text(option).empty()) throw UsageError(concat("--", option, " DATA is needed"));
  return open_labelled_pictures(
      text(option), split, {text("csv-img-key"), text("csv-label-key"), text("csv-separator")});
}

/// Of one place, not of one name; the splits of CIFAR and MNIST lie in one place.
void refuse_same(const po::variables_map& values, const LabelledPictures& a,
                 const std::string& option, const LabelledPictures& b, const std::string& other) {
  const auto place = [&](const std::string& name) {
    std::error_code ignored;
    return std::filesystem::weakly_canonical(values[name].as<std::string>(), ignored);
  };
  if (place(option) == place(other) && a.labels == b.labels)
    throw UsageError(
        concat("--", option, " and --", other, " are the same pictures, ", a.description));
}

/// Numbers the classes of `pictures` as `train` does, by their names; each must have pictures there.
void number_like(const LabelledPictures& train, LabelledPictures& pictures,
                 const std::string& option) {
  std::map<std::string, int64_t> numbers;
  for (const int64_t label : train.labels)
    numbers.emplace(train.classes[static_cast<size_t>(label)], label);
  for (int64_t& label : pictures.labels) {
    const std::string& name = pictures.classes[static_cast<size_t>(label)];
    const auto found = numbers.find(name);
    CLIP_CHECK(found != numbers.end(), "--", option, " has pictures of the class '", name,
               "', which --train (", train.description, ") does not have");
    label = found->second;
  }
  pictures.classes = train.classes;
}

/// Pictures to learn from and, behind them, those to choose lambda by.
struct LearningPictures {
  LabelledPictures pictures;
  int64_t training = 0;  ///< the first ones
};

LearningPictures split_for_validation(const LabelledPictures& all) {
  const std::vector<bool> chosen = validation_split(all.labels);
  std::vector<int64_t> order(chosen.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto middle = std::stable_partition(
      order.begin(), order.end(), [&](int64_t i) { return !chosen[static_cast<size_t>(i)]; });
  LearningPictures learning{all, middle - order.begin()};
  for (size_t i = 0; i < order.size(); ++i)
    learning.pictures.labels[i] = all.labels[static_cast<size_t>(order[i])];
  learning.pictures.picture = [picture = all.picture, order](int64_t i) {
    return picture(order[static_cast<size_t>(i)]);
  };
  return learning;
}

LearningPictures joined(const LabelledPictures& train, const LabelledPictures& validation) {
  LearningPictures learning{train, train.size()};
  learning.pictures.labels.insert(learning.pictures.labels.end(), validation.labels.begin(),
                                  validation.labels.end());
  learning.pictures.picture = [first = train.picture, count = train.size(),
                               second = validation.picture](int64_t i) {
    return i < count ? first(i) : second(i - count);
  };
  return learning;
}

/// Classes without a picture to learn from are no classes: nothing would hold their biases.
/// returns the number of each class that has one, in order
std::map<int64_t, int64_t> learned_classes(const Labels& labels) {
  std::map<int64_t, int64_t> numbers;
  for (const int64_t label : labels) numbers[label] = 0;
  int64_t next = 0;
  for (auto& [label, number] : numbers) number = next++;
  return numbers;
}

/// All that is asked for, as far as it can be checked without a model.
struct ProbeData {
  LearningPictures learning;
  LabelledPictures test;
};

ProbeData open_data(const po::variables_map& values, bool has_lambda) {
  const LabelledPictures train = open_pictures(values, "train", Split::kTrain);
  ProbeData data{{train, train.size()}, open_pictures(values, "test", Split::kTest)};
  refuse_same(values, train, "train", data.test, "test");
  const auto counts = learned_classes(train.labels);
  CLIP_CHECK(counts.size() > 1, "--train (", train.description,
             ") must have pictures of two classes or more, found one: '",
             train.classes[static_cast<size_t>(counts.begin()->first)], "'");
  if (!values["validation"].as<std::string>().empty()) {
    LabelledPictures validation = open_pictures(values, "validation", Split::kTest);
    refuse_same(values, validation, "validation", data.test, "test");
    refuse_same(values, validation, "validation", train, "train");
    number_like(train, validation, "validation");
    data.learning = joined(train, validation);
  } else if (!has_lambda) {
    data.learning = split_for_validation(train);
    CLIP_CHECK(data.learning.training < train.size(), "--train (", train.description,
               ") has no class of two pictures, so none can be kept to choose lambda by: give "
               "--validation, --c or --lambda");
  }
  number_like(train, data.test, "test");
  return data;
}

/// Features and classes of the pictures that could be read.
struct Labelled {
  Tensor features;
  Labels labels;
  int64_t training = 0;  ///< of the first `training` pictures of the list, those that could be read

  int64_t size() const { return std::ssize(labels); }
  Labelled rows(int64_t begin, int64_t end) const {
    return {features.slice(begin, end), Labels(labels.begin() + begin, labels.begin() + end)};
  }
};

Labelled read_features(Evaluation& evaluation, const LoadedModel& loaded, FeatureForm form,
                       const LabelledPictures& pictures, int64_t training) {
  const NumberedFeatures read = picture_features(loaded.clip(), pictures.size(), pictures.picture,
                                                 evaluation.embedding(form));
  Labelled result{read.rows, {}};
  for (const int64_t number : read.numbers) {
    result.labels.push_back(pictures.labels[static_cast<size_t>(number)]);
    result.training += number < training ? 1 : 0;
  }
  return result;
}

/// The classes learned, in the numbers of the data.
struct Probe {
  LogisticFit fit;
  Labels classes;

  Accuracy on(const Labelled& pictures, size_t all_classes) const {
    Accuracy accuracy(static_cast<int64_t>(all_classes));
    const auto ranked = fit.classifier.ranked(pictures.features, 5);
    for (size_t i = 0; i < ranked.size(); ++i) {
      Labels guesses;
      for (const int64_t k : ranked[i]) guesses.push_back(classes[static_cast<size_t>(k)]);
      accuracy.count(pictures.labels[i], guesses);
    }
    return accuracy;
  }
};

Probe learn(const Labelled& pictures, double lambda, int64_t max_iterations) {
  const std::map<int64_t, int64_t> numbers = learned_classes(pictures.labels);
  Labels labels, classes;
  for (const int64_t label : pictures.labels) labels.push_back(numbers.at(label));
  for (const auto& [label, number] : numbers) classes.push_back(label);
  return {fit_logistic_regression(pictures.features, labels, std::ssize(classes),
                                  {.lambda = lambda, .max_iterations = max_iterations}),
          classes};
}

std::string number(double value) { return formatted("%.3g", value); }

/// Of a fit that --max-iterations stopped; the precision of the products is no reason to warn.
const char* note_on(const LogisticFit& fit, int64_t max_iterations) {
  return !fit.converged && fit.iterations >= max_iterations ? ", not converged" : "";
}

/// Prints each try, and writes all of them, by lambda, to `steps`; returns the best.
SweepStep sweep(const Labelled& learning, size_t classes, int64_t max_iterations,
                nlohmann::ordered_json& steps) {
  const Labelled training = learning.rows(0, learning.training),
                 validation = learning.rows(learning.training, learning.size());
  std::map<double, nlohmann::ordered_json> tried;
  const std::vector<SweepStep> result = sweep_lambda([&](double lambda) {
    const Probe probe = learn(training, lambda, max_iterations);
    const double accuracy = probe.on(validation, classes).top1.value();
    std::cout << "  lambda " << std::left << std::setw(9) << number(lambda) << std::right
              << "  validation " << percent(accuracy) << std::setw(6) << probe.fit.iterations
              << " iterations" << note_on(probe.fit, max_iterations) << std::endl;
    tried[lambda] = {{"lambda", lambda},
                     {"C", 1 / lambda},
                     {"top1", accuracy},
                     {"iterations", probe.fit.iterations},
                     {"converged", probe.fit.converged}};
    return accuracy;
  });
  for (const auto& [lambda, step] : tried) steps.push_back(step);
  return best_of(result);
}

void print_data(const ProbeData& data, const Labelled& learning, const Labelled& test,
                FeatureForm form, bool is_resnet) {
  const int64_t more = learning.size() - learning.training;
  std::cout << "train       " << data.learning.pictures.description << ": " << learning.training
            << " pictures of " << learned_classes(learning.labels).size() << " classes"
            << (more > 0 ? concat(", ", more, " for validation") : "") << "\ntest        "
            << data.test.description << ": " << test.size() << " pictures\nfeatures    "
            << test.features.width()
            << (form == FeatureForm::kProjected ? ", projected\n"
                : is_resnet                     ? ", of the attention pool\n"
                                                : ", before the projection\n");
}

}  // namespace

void evaluate_linear_probe_word(int argc, const char* const* argv) {
  const po::variables_map values = parse_options(argc, argv, option_list(), kUsage);
  const std::optional<double> fixed = fixed_lambda(values);
  const int64_t max_iterations = at_least(1, values, "max-iterations");
  const FeatureForm form =
      values["projected"].as<bool>() ? FeatureForm::kProjected : FeatureForm::kBeforeProjection;
  Evaluation evaluation(values);
  const ProbeData data = open_data(values, fixed.has_value());

  const LoadedModel& loaded = evaluation.load(Words::kIfThere);
  const Labelled learning =
      read_features(evaluation, loaded, form, data.learning.pictures, data.learning.training);
  CLIP_CHECK(learned_classes(learning.labels).size() > 1, "only pictures of one class can be read");
  CLIP_CHECK(fixed || learning.training < learning.size(),
             "none of the pictures to choose lambda by can be read");
  const Labelled test = read_features(evaluation, loaded, form, data.test, 0);
  print_data(data, learning, test, form, loaded.clip().config.vision.is_resnet());

  const std::vector<std::string>& classes = data.test.classes;
  nlohmann::ordered_json steps = nlohmann::ordered_json::array();
  const double lambda =
      fixed ? *fixed : sweep(learning, classes.size(), max_iterations, steps).lambda;
  const Probe probe = learn(learning, lambda, max_iterations);
  const Accuracy accuracy = probe.on(test, classes.size());
  std::cout << "lambda      " << number(lambda) << " (C " << number(1 / lambda) << "), "
            << probe.fit.iterations << " iterations on " << learning.size() << " pictures"
            << note_on(probe.fit, max_iterations) << '\n';
  print_accuracy(accuracy);
  if (values["per-class"].as<bool>()) print_per_class(accuracy, classes);
  evaluation.write([&] {
    nlohmann::ordered_json figures = to_json(accuracy, classes, evaluation.left_out());
    figures.update({{"lambda", lambda},
                    {"C", 1 / lambda},
                    {"iterations", probe.fit.iterations},
                    {"converged", probe.fit.converged},
                    {"training_pictures", learning.training},
                    {"validation_pictures", learning.size() - learning.training},
                    {"features", test.features.width()},
                    {"sweep", steps}});
    return figures;
  });
}

}  // namespace clip
