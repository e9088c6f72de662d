// Zero-shot classification: pictures against words.
#include "models/zero_shot.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/common/accuracy_report.h"
#include "apps/common/model_options.h"
#include "apps/common/percent.h"
#include "apps/common/program.h"
#include "models/atomic_file.h"
#include "models/embedding_stream.h"
#include "models/labelled_pictures.h"

namespace clip {
namespace {

namespace po = boost::program_options;
using Strings = std::vector<std::string>;

constexpr const char* kUsage =
    "Names pictures by the words that fit them best. Probabilities sum to 1 over the labels; those "
    "of a\nmodel trained with --siglip are each label's own.\n"
    "Examples:\n"
    "  ./apps/zero_shot --checkpoint runs/emoji-1 --images a.png b.png --labels \"red car,blue "
    "car\"\n"
    "  ./apps/zero_shot --checkpoint runs/first --data flowers/ --template \"a photo of a {}\" "
    "--per-class\n"
    "  ./apps/zero_shot --checkpoint ViT-B-32.pt --data 'imagenet-val-{00..49}.tar' --labels-file "
    "names.txt "
    "--templates-file openai.txt --prompts cupl.json\n"
    "  ./apps/zero_shot --checkpoint ViT-B-32.pt --bpe bpe_simple_vocab_16e6.txt.gz --images a.png "
    "--labels cat,dog\n";

po::options_description option_list() {
  const auto text = [](const std::string& value = "") {
    return po::value<std::string>()->default_value(value);
  };
  const CsvOptions csv;
  po::options_description options("Options");
  // clang-format off
  add_first_options(options)
    ("images", po::value<Strings>()->multitoken(), "pictures to name")
    ("labels", text(), "class names, separated by commas")
    ("labels-file", text(), "file with a class name a line")
    ("template", po::value<Strings>()->composing(), "prompt with {} for the class name; may be given several times "
                                                    "(default: \"a photo of a {}\")")
    ("templates-file", text(), "file with a template a line")
    ("prompts", text(), "JSON file of prompts of each class, {\"cat\": [\"a cat with whiskers\", ...], ...}; --template "
                        "and --templates-file add theirs")
    ("data", text(), "print accuracies over a folder with a subfolder of pictures per class, or of the files of CIFAR "
                     "or MNIST (their test split), a .csv or .tsv file, or .tar shards (a .cls beside each picture). "
                     "Class names are the folders' in sorted order (_ read as a space), or the data set's own, unless "
                     "--labels gives others in the same order; for classes that are numbers it must")
    ("csv-img-key", text(csv.image_key), "CSV column of the picture's path")
    ("csv-label-key", text("label"), "CSV column of the class")
    ("csv-separator", text(), "one character; empty: tab or comma, as the header has it")
    ("per-class", po::bool_switch(), "a line for each class too, the worst first (--json has them always)")
    ("save-classifier", po::bool_switch(), "keep the class embeddings in the checkpoint; the next run with the "
                                           "same labels and templates uses them")
    ("top-k", po::value<int64_t>()->default_value(5), "classes shown for each picture")
    ("json", po::bool_switch(), "print JSON");
  // clang-format on
  add_device_options(options);
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
  if (templates.empty() && values["prompts"].as<std::string>().empty())
    templates = {"a photo of a {}"};
  return templates;
}

// A saved classifier is that of the folder's own model.
Classifier classifier_for(const LoadedModel& loaded, const ClassWords& words, bool own_model,
                          bool save) {
  if (!own_model) return build_classifier(loaded.clip(), *loaded.tokenizer, words);
  if (auto saved = find_classifier(loaded.checkpoint, words)) return *saved;
  Classifier classifier = build_classifier(loaded.clip(), *loaded.tokenizer, words);
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
      const std::string& label = classifier.words.labels[static_cast<size_t>(guesses[i][k].label)];
      shown.push_back({{"label", label}, {"probability", guesses[i][k].probability}});
      if (!as_json)
        std::cout << "  " << percent(guesses[i][k].probability) << "  " << label << '\n';
    }
    results.push_back({{"image", paths[i]}, {"guesses", shown}});
  }
  if (as_json)
    std::cout << results.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
}

struct Measured {
  Accuracy accuracy;
  int64_t broken = 0;
};

Measured measure(const LoadedModel& loaded, const Classifier& classifier,
                 const LabelledPictures& pictures) {
  Measured measured{Accuracy(std::ssize(pictures.classes))};
  const auto skip = [&](const std::string& sentence) {
    std::cerr << concat("skipped: ", one_line(sentence), '\n');
    ++measured.broken;
  };
  EmbeddingStream stream = embed_pictures(loaded.clip(), pictures.size(), pictures.picture,
                                          {.batch_size = 128, .left_out = skip});
  while (const std::optional<EmbeddedBatch> batch = stream.next()) {
    const Tensor features = Tensor::from<float>(
        cpu_backend(), {std::ssize(batch->items), loaded.clip().config.embed_dim}, batch->features);
    const auto guesses = classify(classifier, features, loaded.logit_scale(), loaded.logit_bias());
    for (size_t i = 0; i < guesses.size(); ++i) {
      std::vector<int64_t> ranked;
      for (const Guess& guess : guesses[i]) ranked.push_back(guess.label);
      measured.accuracy.count(pictures.labels.at(std::stoull(batch->items[i])), ranked);
    }
  }
  CLIP_CHECK(measured.accuracy.top1.tried > 0, "none of the ", pictures.size(),
             " pictures can be read");
  return measured;
}

void report(const Measured& measured, const LabelledPictures& pictures, const Strings& labels,
            bool per_class, bool as_json) {
  const Accuracy& accuracy = measured.accuracy;
  if (as_json) {
    std::cout << to_json(accuracy, pictures.classes, measured.broken)
                     .dump(2, ' ', false, nlohmann::json::error_handler_t::replace)
              << '\n';
    return;
  }
  const int64_t tried = accuracy.top1.tried;
  std::cout << tried << (tried == 1 ? " picture of " : " pictures of ") << pictures.classes.size()
            << " classes";
  if (measured.broken > 0) std::cout << " (" << measured.broken << " could not be read)";
  std::cout << '\n';
  print_accuracy(accuracy);
  if (per_class) print_per_class(accuracy, pictures.numbered ? labels : pictures.classes);
}

/// The labels of all classes: those given, else the names that the data have.
Strings labels_of(LabelledPictures& pictures, const Strings& given) {
  if (given.empty()) {
    if (pictures.numbered)
      throw UsageError(concat("the classes of ", pictures.description,
                              " are numbers: --labels or --labels-file must name them from 0 on"));
    Strings labels;
    std::transform(pictures.classes.begin(), pictures.classes.end(), std::back_inserter(labels),
                   in_words);
    return labels;
  }
  while (pictures.numbered && pictures.classes.size() < given.size())  // the last have no pictures
    pictures.classes.push_back(concat(pictures.classes.size()));
  if (given.size() != pictures.classes.size())
    throw UsageError(concat("--labels gives ", given.size(), " classes, but ", pictures.description,
                            " has ", pictures.classes.size()));
  return given;
}

void zero_shot(int argc, const char* const* argv) {
  const po::variables_map values = parse_options(argc, argv, option_list(), kUsage);
  const auto text = [&](const char* option) { return values[option].as<std::string>(); };
  const bool as_json = values["json"].as<bool>(), save = values["save-classifier"].as<bool>();
  const int64_t top_k = at_least(1, values, "top-k");
  const std::string data = text("data"), checkpoint = text("checkpoint");
  const Strings paths = values.count("images") > 0 ? values["images"].as<Strings>() : Strings();
  if (paths.empty() == data.empty()) throw UsageError("give either --images FILES or --data DATA");
  ClassWords words{given_labels(values), given_templates(values)};
  if (!paths.empty() && words.labels.empty())
    throw UsageError("--images needs --labels or --labels-file");
  if (checkpoint.empty()) throw UsageError("--checkpoint MODEL is needed");
  const ModelOptions model_options(values);
  const bool own_model = !model_options.given() && std::filesystem::is_directory(checkpoint);
  if (save && !own_model)
    throw UsageError(
        "--save-classifier keeps embeddings in a model's folder, and only those of the model as it "
        "is there: it goes with neither a weight file nor --model, --force-quick-gelu, "
        "--tokenizer, --bpe");

  // What is cheap to check goes before the model.
  LabelledPictures pictures;
  if (!data.empty()) {
    pictures = open_labelled_pictures(
        data, Split::kTest, {text("csv-img-key"), text("csv-label-key"), text("csv-separator")});
    words.labels = labels_of(pictures, words.labels);
  }
  std::error_code ignored;
  for (const std::string& path : paths)
    CLIP_CHECK(std::filesystem::exists(path, ignored), "picture '", path, "' does not exist");
  if (!text("prompts").empty()) words.prompts = read_prompts(text("prompts"), words.labels);
  check_words(words);
  const ChosenDevice device = choose_device(text("device"));
  const LoadedModel loaded = load_model(checkpoint, model_options, *device.backend,
                                        choose_precision(text("precision"), *device.backend));
  device.print_note();
  std::optional<ConstantWeights> constant;
  if (!data.empty())
    constant.emplace(loaded.model->parameters);  // a few pictures start sooner without
  const Classifier classifier = classifier_for(loaded, words, own_model, save);
  if (data.empty()) return name_pictures(loaded, classifier, paths, top_k, as_json);
  report(measure(loaded, classifier, pictures), pictures, words.labels,
         values["per-class"].as<bool>(), as_json);
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  return clip::run_program("zero_shot", [&] { clip::zero_shot(argc, argv); });
}
