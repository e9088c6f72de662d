// What is in a model's files.
#include <cmath>
#include <cstdio>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "apps/common/model_options.h"
#include "apps/common/program.h"
#include "models/model_files.h"

namespace clip {
namespace {

namespace po = boost::program_options;
using json = nlohmann::ordered_json;

constexpr const char* kUsage =
    "Tells what a model's files hold: architecture, activation, parameters, tensors, and what is "
    "missing or left over.\n"
    "Usage: ./apps/inspect MODEL [--tensors] [--json]\n"
    "Example:\n"
    "  ./apps/inspect ViT-B-32.pt --tensors\n";

po::options_description option_list() {
  po::options_description options("Options");
  // clang-format off
  add_first_options(options)
    ("tensors", po::bool_switch(), "every tensor with its shape, mean and standard deviation")
    ("json", po::bool_switch(), "print JSON");
  // clang-format on
  add_model_options(options);
  return options;
}

/// The numbers of a weight in three.
struct Statistics {
  double mean = 0, deviation = 0;
  int64_t not_finite = 0;
};

Statistics statistics_of(const Weight& weight, std::vector<double>& buffer) {
  buffer.resize(static_cast<size_t>(weight.numel()));
  weight.read(DType::kF64, buffer.data());
  Statistics found;
  double sum = 0, squares = 0;
  for (const double value : buffer) {
    if (std::isfinite(value)) {
      sum += value;
    } else {
      ++found.not_finite;
    }
  }
  const auto count = static_cast<double>(std::ssize(buffer) - found.not_finite);
  found.mean = count > 0 ? sum / count : 0;
  for (const double value : buffer)
    if (std::isfinite(value)) squares += (value - found.mean) * (value - found.mean);
  found.deviation = count > 0 ? std::sqrt(squares / count) : 0;
  return found;
}

json image_json(const VisionConfig& vision) {
  json image = {{"kind", vision.is_resnet() ? "ModifiedResNet" : "ViT"},
                {"layers", vision.is_resnet() ? json(vision.stages) : json(vision.layers)},
                {"width", vision.width},
                {"heads", vision.heads()},
                {"image_size", vision.image_size}};
  if (vision.is_resnet()) return image;
  image["mlp_width"] = vision.mlp_width();
  image["patch_size"] = vision.patch_size;
  if (vision.pool == Pool::kAverage) image["pool"] = "average";
  if (vision.final_ln_after_pool) image["final_ln_after_pool"] = true;
  if (vision.no_ln_pre) image["ln_pre"] = false;
  if (vision.ls_init_value > 0) image["layer_scale"] = true;
  return image;
}

json text_json(const TextConfig& text) {
  json words = {{"layers", text.layers},
                {"width", text.width},
                {"heads", text.heads},
                {"mlp_width", text.mlp_width()},
                {"context_length", text.context_length},
                {"vocab_size", text.vocab_size}};
  if (text.ls_init_value > 0) words["layer_scale"] = true;
  return words;
}

/// The presets with these towers; of another activation too where it is not known.
json name_of(const ClipConfig& config, bool is_gelu_known) {
  std::string names;
  for (const std::string& name : preset_names()) {
    ClipConfig candidate = preset(name);
    if (!is_gelu_known) candidate.gelu = config.gelu;
    if (same_architecture(candidate, config)) names += (names.empty() ? "" : " or ") + name;
  }
  return names.empty() ? json() : json(names);
}

/// The model's parameters and buffers that the files lack, and the files' tensors that it lacks.
void compare(const ClipConfig& config, const Weights& weights, json& report) {
  const Clip clip(config);
  ParameterList list;
  clip.collect(list);
  std::map<std::string, Shape> expected;
  for (const auto& named : {list.parameters(), list.buffers()})
    for (const Parameter& parameter : named) expected[parameter.name] = parameter.variable.shape();
  json missing = json::array(), left_over = json::array();
  for (const auto& [name, shape] : expected) {
    const Weight* weight = weights.find(name);
    if (weight == nullptr) {
      missing.push_back(concat(name, " ", shape));
    } else if (!fits(*weight, shape) || !weight->pieces[0].is_readable()) {
      missing.push_back(concat(name, " ", shape, ", there is ", weight->dtype(), " ",
                               json(weight->shape()).dump()));
    }
  }
  for (const auto& [name, weight] : weights.all())
    if (!expected.contains(name))
      left_over.push_back(concat(weight.name, " ", json(weight.shape()).dump()));
  report["missing"] = missing;
  report["left_over"] = left_over;
}

/// A BatchNorm's, which no optimizer changes.
bool is_buffer(const std::string& name) {
  return name.ends_with(".running_mean") || name.ends_with(".running_var") ||
         name.ends_with(".num_batches_tracked");
}

void report_weights(const Weights& weights, bool with_tensors, json& report) {
  std::map<std::string, int64_t> dtypes;
  int64_t image = 0, text = 0, total = 0, buffers = 0;
  json tensors = json::array(), not_finite = json::array();
  std::vector<double> buffer;
  for (const auto& [name, weight] : weights.all()) {
    ++dtypes[weight.dtype()];
    (is_buffer(name) ? buffers : total) += weight.numel();
    if (is_locked(name, {.image = true}) && !is_buffer(name)) image += weight.numel();
    if (is_locked(name, {.text = true})) text += weight.numel();
    json tensor = {{"name", name}, {"shape", weight.shape()}, {"dtype", weight.dtype()}};
    if (weight.pieces[0].is_readable()) {
      const Statistics found = statistics_of(weight, buffer);
      tensor["mean"] = found.mean;
      tensor["deviation"] = found.deviation;
      if (found.not_finite > 0)
        not_finite.push_back({{"name", name}, {"numbers", found.not_finite}});
    }
    tensors.push_back(tensor);
  }
  report["parameters"] = {{"image", image}, {"text", text}, {"total", total}};
  if (buffers > 0) report["parameters"]["buffers"] = buffers;
  report["dtypes"] = dtypes;
  report["not_finite"] = not_finite;
  if (with_tensors) report["tensors"] = tensors;
}

/// Sizes and activation, as far as they can be known; what cannot be is told: "unknown" lacks a
/// choice of the user's, "unusable" is damaged or of another kind of model.
void report_configuration(const std::string& path, const WeightChoice& choice,
                          const Weights& weights, json& report) {
  ClipConfig config;
  report["activation"] = nullptr;
  try {
    config = load_config(path, choice);
    report["activation"] = config.gelu == Gelu::kQuick ? "QuickGELU" : "GELU";
  } catch (const UsageError& unknown) {
    report["unknown"] = unknown.what();
    try {  // the sizes may be known without the activation
      config = load_config(path, {choice.model, true});
    } catch (const Error&) {
      return;
    }
  } catch (const Error& unusable) {
    report["unusable"] = unusable.what();
    return;
  }
  report["architecture"] = {{"name", name_of(config, !report.contains("unknown"))},
                            {"embed_dim", config.embed_dim},
                            {"image", image_json(config.vision)},
                            {"text", text_json(config.text)}};
  report["loss"] = config.loss() == LossKind::kSigmoid ? "sigmoid" : "softmax";
  report["preprocessing"] = to_json(config.vision.preprocess, config.vision.image_size);
  compare(config, weights, report);
}

std::string container_name(const Weights& weights) {
  switch (weights.container()) {
    case Weights::Container::kSafetensors:
      return "safetensors";
    case Weights::Container::kTorchStateDict:
      return "state dict of torch.save";
    case Weights::Container::kTorchScript:
      return "TorchScript archive";
  }
  throw Error("[container_name] unknown container");
}

json inspect_model(const std::string& path, const ModelOptions& options, bool with_tensors) {
  const auto files = find_model_files(path);
  CLIP_CHECK(files, path, " holds no weights: none of ", weight_file_names());
  const Weights weights(files->weights);
  const VocabularyChoice& chosen = options.vocabulary;
  const std::string tokenizer = chosen.given() ? chosen.path() : files->tokenizer;
  json report = {{"weights", files->weights},
                 {"container", container_name(weights)},
                 {"names", weights.has_hugging_face_names() ? "Hugging Face" : "OpenAI, open_clip"},
                 {"configuration", files->config.empty() ? json() : json(files->config)},
                 {"tokenizer", tokenizer.empty() ? json() : json(tokenizer)}};
  if (!tokenizer.empty()) report["token_ids"] = Tokenizer::load(tokenizer).vocab_size();
  report_configuration(path, options.choice, weights, report);
  report_weights(weights, with_tensors, report);
  return report;
}

std::string line_of(const json& object) {
  std::string line;
  for (const auto& [key, value] : object.items())
    line += concat(line.empty() ? "" : ", ", key, " ",
                   value.is_string() ? value.get<std::string>() : value.dump());
  return line;
}

void print_list(const char* title, const json& list) {
  constexpr size_t kShown = 20;
  if (list.empty()) return void(std::printf("%-15snothing\n", title));
  for (size_t i = 0; i < std::min(list.size(), kShown); ++i)
    std::printf("%-15s%s\n", i == 0 ? title : "", one_line(list[i].get<std::string>()).c_str());
  if (list.size() > kShown) std::printf("%-15sand %zu more\n", "", list.size() - kShown);
}

void print(const json& report) {
  const auto row = [](const char* title, const std::string& text) {
    std::printf("%-15s%s\n", title, one_line(text).c_str());
  };
  const auto text_or = [&](const char* key, const char* absent) {
    return report.contains(key) && report[key].is_string() ? report[key].get<std::string>()
                                                           : std::string(absent);
  };
  row("weights", concat(text_or("weights", ""), " (", text_or("container", ""), ", names of ",
                        text_or("names", ""), ")"));
  row("configuration", text_or("configuration", "none, by the shapes"));
  if (report.contains("architecture")) {
    const json& architecture = report["architecture"];
    row("architecture",
        concat(architecture["name"].is_string() ? architecture["name"].get<std::string>()
                                                : "of no known name",
               ", embedding ", architecture["embed_dim"].dump()));
    row("  image", line_of(architecture["image"]));
    row("  text", line_of(architecture["text"]));
    row("loss", text_or("loss", ""));
    row("preprocessing", line_of(report["preprocessing"]));
  }
  row("activation", text_or("activation", "unknown"));
  if (report.contains("unknown")) row("", report["unknown"].get<std::string>());
  row("tokenizer", report["tokenizer"].is_string()
                       ? concat(text_or("tokenizer", ""), ", ", report["token_ids"].dump(), " ids")
                       : "none");
  row("parameters", line_of(report["parameters"]));
  row("dtypes", line_of(report["dtypes"]) + " tensors");
  if (report.contains("missing")) {
    print_list("missing", report["missing"]);
    print_list("left over", report["left_over"]);
  }
  if (!report.contains("tensors")) return;
  std::printf("\n%-52s%-20s%-6s%12s%12s\n", "tensor", "shape", "dtype", "mean", "deviation");
  for (const json& tensor : report["tensors"])
    std::printf("%-52s%-20s%-6s%12.3e%12.3e\n", one_line(tensor["name"].get<std::string>()).c_str(),
                tensor["shape"].dump().c_str(), tensor["dtype"].get<std::string>().c_str(),
                tensor.value("mean", 0.0), tensor.value("deviation", 0.0));
}

void inspect(int argc, const char* const* argv) {
  const po::variables_map values = parse_options(argc, argv, option_list(), kUsage, "checkpoint");
  const std::string path = values["checkpoint"].as<std::string>();
  if (path.empty()) throw UsageError("a MODEL to look at is needed");
  const json report =
      inspect_model(find_checkpoint(path), ModelOptions(values), values["tensors"].as<bool>());
  if (values["json"].as<bool>()) {
    std::cout << report.dump(2, ' ', false, json::error_handler_t::replace) << '\n';
  } else {
    print(report);
  }
  std::fflush(stdout);
  for (const json& tensor : report["not_finite"])
    std::cerr << concat("warning: ", one_line(tensor["name"].get<std::string>()), " holds ",
                        tensor["numbers"], " numbers that are NaN or infinite\n");
  const auto unusable = report.find("unusable");
  if (unusable != report.end()) throw Error(unusable->get<std::string>());
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  return clip::run_program("inspect", [&] { clip::inspect(argc, argv); });
}
