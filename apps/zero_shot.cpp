// Zero-shot classification: pictures against words.
#include "models/zero_shot.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "apps/common/model_options.h"
#include "apps/common/percent.h"
#include "apps/common/program.h"
#include "models/atomic_file.h"
#include "models/labelled_pictures.h"

namespace clip {
namespace {

namespace po = boost::program_options;
using Strings = std::vector<std::string>;

const char* kUsage =
    "Names pictures by the words that fit them best. Probabilities sum to 1 over the labels; those "
    "of a\nmodel trained with --siglip are each label's own.\n"
    "Examples:\n"
    "  ./apps/zero_shot --checkpoint runs/emoji-1 --images a.png b.png --labels \"red car,blue "
    "car\"\n"
    "  ./apps/zero_shot --checkpoint runs/first --data flowers/ --template \"a photo of a {}\"\n"
    "  ./apps/zero_shot --checkpoint ViT-B-32.pt --bpe bpe_simple_vocab_16e6.txt.gz --images a.png "
    "--labels cat,dog\n";

po::options_description option_list() {
  const auto text = [] { return po::value<std::string>()->default_value(""); };
  po::options_description options("Options");
  // clang-format off
  options.add_options()
    ("help", "print this and exit")
    ("checkpoint", text(), kModelPathHelp)
    ("images", po::value<Strings>()->multitoken(), "pictures to name")
    ("labels", text(), "class names, separated by commas")
    ("labels-file", text(), "file with a class name a line")
    ("template", po::value<Strings>()->composing(), "prompt with {} for the class name; may be given several times "
                                                    "(default: \"a photo of a {}\")")
    ("templates-file", text(), "file with a template a line")
    ("data", text(), "folder with a subfolder of pictures per class, or of the files of CIFAR or MNIST (their "
                     "test split): print accuracies. Class names are the folders' in sorted order (_ read as a "
                     "space), or the data set's own, unless --labels gives others in the same order")
    ("save-classifier", po::bool_switch(), "keep the class embeddings in the checkpoint; the next run with the "
                                           "same labels and templates uses them")
    ("top-k", po::value<int64_t>()->default_value(5), "classes shown for each picture")
    ("json", po::bool_switch(), "print JSON")
    ("precision", po::value<std::string>()->default_value("fp32"), "fp32, bf16 or auto (bf16 where the device has "
                                                                   "instructions for it)")
    ("device", po::value<std::string>()->default_value("auto"), "auto, cpu or cuda[:i]");
  // clang-format on
  add_model_options(options);
  return options;
}

std::string trimmed(const std::string& text) {
  const char* white = " \t\r\n";
  const size_t begin = text.find_first_not_of(white);
  return begin == std::string::npos ? ""
                                    : text.substr(begin, text.find_last_not_of(white) - begin + 1);
}

/// The parts of a text that are not blank.
Strings split(const std::string& text, char separator) {
  Strings parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);)
    if (!trimmed(part).empty()) parts.push_back(trimmed(part));
  return parts;
}

Strings lines_of(const std::string& option, const std::string& path) {
  const Strings lines = split(read_file(path, 1 << 26), '\n');
  CLIP_CHECK(!lines.empty(), option, ": ", path, " holds no line of text");
  return lines;
}

Strings given_labels(const po::variables_map& values) {
  Strings labels = split(values["labels"].as<std::string>(), ',');
  const std::string file = values["labels-file"].as<std::string>();
  if (!file.empty())
    for (const std::string& label : lines_of("--labels-file", file)) labels.push_back(label);
  return labels;
}

Strings given_templates(const po::variables_map& values) {
  Strings templates;
  if (values.count("template") > 0) templates = values["template"].as<Strings>();
  const std::string file = values["templates-file"].as<std::string>();
  if (!file.empty())
    for (const std::string& line : lines_of("--templates-file", file)) templates.push_back(line);
  if (templates.empty()) templates = {"a photo of a {}"};
  return templates;
}

// A saved classifier is that of the folder's own model.
Classifier classifier_for(const LoadedModel& loaded, const Strings& labels,
                          const Strings& templates, bool own_model, bool save) {
  if (!own_model) return build_classifier(loaded.clip(), *loaded.tokenizer, labels, templates);
  if (auto saved = find_classifier(loaded.checkpoint, labels, templates)) return *saved;
  Classifier classifier = build_classifier(loaded.clip(), *loaded.tokenizer, labels, templates);
  if (save)
    std::cerr << "classifier saved as " << save_classifier(loaded.checkpoint, classifier) << '\n';
  return classifier;
}

void name_pictures(const LoadedModel& loaded, const Classifier& classifier, const Strings& paths,
                   int64_t top_k, bool as_json) {
  const Tensor features = image_features(
      loaded.clip(), static_cast<int64_t>(paths.size()),
      [&](int64_t i) { return loaded.prepare(load_image(paths[static_cast<size_t>(i)])); });
  const auto guesses = classify(classifier, features, loaded.logit_scale(), loaded.logit_bias());
  nlohmann::json results = nlohmann::json::array();
  for (size_t i = 0; i < paths.size(); ++i) {
    nlohmann::json shown = nlohmann::json::array();
    if (!as_json) std::cout << paths[i] << '\n';
    for (size_t k = 0; k < std::min(guesses[i].size(), static_cast<size_t>(top_k)); ++k) {
      const std::string& label = classifier.labels[static_cast<size_t>(guesses[i][k].label)];
      shown.push_back({{"label", label}, {"probability", guesses[i][k].probability}});
      if (!as_json)
        std::cout << "  " << percent(guesses[i][k].probability) << "  " << label << '\n';
    }
    results.push_back({{"image", paths[i]}, {"guesses", shown}});
  }
  if (as_json)
    std::cout << results.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
}

/// How often the right class is first, or among the first five, over a folder of classes.
struct Accuracy {
  Proportion top1, top5;
  std::vector<Proportion> per_class;
  int64_t broken = 0;

  double mean_per_class() const {
    double sum = 0, classes = 0;
    for (const Proportion& share : per_class) {
      if (share.tried == 0) continue;
      sum += share.value();
      classes += 1;
    }
    return classes == 0 ? 0 : sum / classes;
  }
};

Accuracy measure(const LoadedModel& loaded, const Classifier& classifier,
                 const LabelledPictures& pictures) {
  constexpr int64_t kChunk = 256;  // pictures in memory at once
  Accuracy accuracy;
  accuracy.per_class.resize(pictures.classes.size());
  for (int64_t begin = 0; begin < pictures.size(); begin += kChunk) {
    std::vector<Image> images;
    std::vector<int64_t> labels;
    for (int64_t i = begin; i < std::min(begin + kChunk, pictures.size()); ++i) {
      try {
        images.push_back(loaded.prepare(pictures.picture(i)));
        labels.push_back(pictures.labels[static_cast<size_t>(i)]);
      } catch (const Error& error) {
        std::cerr << concat("skipped: ", one_line(error.what()), '\n');
        ++accuracy.broken;
      }
    }
    const Tensor features =
        image_features(loaded.clip(), static_cast<int64_t>(images.size()),
                       [&](int64_t i) { return images[static_cast<size_t>(i)]; });
    const auto guesses = classify(classifier, features, loaded.logit_scale(), loaded.logit_bias());
    for (size_t i = 0; i < images.size(); ++i) {
      const auto first_five =
          guesses[i].begin() + static_cast<std::ptrdiff_t>(std::min<size_t>(5, guesses[i].size()));
      const bool right = guesses[i][0].label == labels[i];
      accuracy.top1.count(right);
      accuracy.per_class[static_cast<size_t>(labels[i])].count(right);
      accuracy.top5.count(std::any_of(guesses[i].begin(), first_five, [&](const Guess& guess) {
        return guess.label == labels[i];
      }));
    }
  }
  CLIP_CHECK(accuracy.top1.tried > 0, "none of the ", pictures.size(), " pictures can be read");
  return accuracy;
}

void report(const Accuracy& accuracy, const LabelledPictures& pictures, bool as_json) {
  if (as_json) {
    nlohmann::json per_class;
    for (size_t i = 0; i < pictures.classes.size(); ++i) {
      const Proportion& share = accuracy.per_class[i];
      nlohmann::json& value = per_class[pictures.classes[i]];  // null if no picture could be read
      if (share.tried > 0) value = share.value();
    }
    const nlohmann::json result = {{"top1", accuracy.top1.value()},
                                   {"top5", accuracy.top5.value()},
                                   {"mean_per_class", accuracy.mean_per_class()},
                                   {"pictures", accuracy.top1.tried},
                                   {"broken", accuracy.broken},
                                   {"per_class", per_class}};
    std::cout << result.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
    return;
  }
  const int64_t tried = accuracy.top1.tried;
  std::cout << tried << (tried == 1 ? " picture of " : " pictures of ") << pictures.classes.size()
            << " classes";
  if (accuracy.broken > 0) std::cout << " (" << accuracy.broken << " could not be read)";
  std::cout << "\n  top-1           " << percent(accuracy.top1.value())
            << "   (95 %: " << percent(accuracy.top1.low()) << " to "
            << percent(accuracy.top1.high()) << ")\n  top-5           "
            << percent(accuracy.top5.value()) << "\n  mean per class  "
            << percent(accuracy.mean_per_class()) << '\n';
}

void zero_shot(int argc, const char* const* argv) {
  const po::variables_map values = parse_options(argc, argv, option_list(), kUsage);
  Strings labels = given_labels(values);
  const Strings templates = given_templates(values);
  const bool as_json = values["json"].as<bool>(), save = values["save-classifier"].as<bool>();
  const int64_t top_k = values["top-k"].as<int64_t>();
  if (top_k < 1) throw UsageError(concat("--top-k must be at least 1, got ", top_k));
  const std::string data = values["data"].as<std::string>();
  const bool has_images = values.count("images") > 0;
  if (has_images == !data.empty()) throw UsageError("give either --images FILES or --data DIR");
  if (has_images && labels.empty()) throw UsageError("--images needs --labels or --labels-file");

  const ModelOptions model_options(values);
  const std::string checkpoint = values["checkpoint"].as<std::string>();
  if (checkpoint.empty()) throw UsageError("--checkpoint MODEL is needed");
  const bool own_model = !model_options.given() && std::filesystem::is_directory(checkpoint);
  if (save && !own_model)
    throw UsageError(
        "--save-classifier keeps embeddings in a model's folder, and only those of the model as it "
        "is there: it goes with neither a weight file nor --model, --force-quick-gelu, "
        "--tokenizer, --bpe");
  const ChosenDevice device = choose_device(values["device"].as<std::string>());
  const LoadedModel loaded =
      load_model(checkpoint, model_options, *device.backend,
                 choose_precision(values["precision"].as<std::string>(), *device.backend));
  if (!device.note.empty()) std::cerr << "device " << device.note << '\n';
  if (has_images) {
    name_pictures(loaded, classifier_for(loaded, labels, templates, own_model, save),
                  values["images"].as<Strings>(), top_k, as_json);
    return;
  }
  const LabelledPictures pictures = open_labelled_pictures(data, Split::kTest);
  if (labels.empty())
    std::transform(pictures.classes.begin(), pictures.classes.end(), std::back_inserter(labels),
                   in_words);
  if (labels.size() != pictures.classes.size())
    throw UsageError(concat("--labels gives ", labels.size(), " classes, but ", data, " has ",
                            pictures.classes.size()));
  report(measure(loaded, classifier_for(loaded, labels, templates, own_model, save), pictures),
         pictures, as_json);
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  return clip::run_program("zero_shot", [&] { clip::zero_shot(argc, argv); });
}
