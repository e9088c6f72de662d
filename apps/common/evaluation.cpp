#include "apps/common/evaluation.h"

#include <filesystem>
#include <iostream>

#include "apps/common/option_values.h"
#include "models/shard_pattern.h"

namespace po = boost::program_options;

namespace clip {

void add_evaluation_options(po::options_description& options) {
  // clang-format off
  add_first_options(options)
    ("json", po::value<std::string>()->default_value(""), "file to write the figures to as JSON")
    ("batch-size", po::value<int64_t>()->default_value(32), "pictures that the tower takes at once")
    ("workers", po::value<int64_t>()->default_value(2), "threads that read pictures ahead; 0: none");
  // clang-format on
  add_device_options(options);
  add_model_options(options);
}

namespace {

/// Files and folders that the options name as inputs, shards one by one.
std::vector<std::string> files_read(const po::variables_map& values) {
  std::vector<std::string> files;
  for (const char* option : {"checkpoint", "data", "train", "test", "validation"}) {
    if (values.count(option) == 0) continue;
    const auto input = values[option].as<std::string>();
    std::error_code ignored;
    if (std::filesystem::exists(input, ignored)) {
      files.push_back(input);
    } else if (!input.empty()) {
      const std::vector<std::string> shards = expand_shard_pattern(input);
      files.insert(files.end(), shards.begin(), shards.end());
    }
  }
  return files;
}

}  // namespace

Evaluation::Evaluation(const po::variables_map& values)
    : checkpoint_(values["checkpoint"].as<std::string>()),
      device_name_(values["device"].as<std::string>()),
      precision_(values["precision"].as<std::string>()),
      model_(values),
      batch_size_(at_least(1, values, "batch-size")),
      workers_(at_least(0, values, "workers")) {
  if (checkpoint_.empty()) throw UsageError("--checkpoint MODEL is needed");
  if (const auto path = values["json"].as<std::string>(); !path.empty()) {
    check_output("--json", path, files_read(values), true);
    json_.emplace(path);
  }
}

const LoadedModel& Evaluation::load(Words words) {
  device_ = choose_device(device_name_);
  device_.print_note();
  loaded_ = load_model(checkpoint_, model_, *device_.backend,
                       choose_precision(precision_, *device_.backend), words);
  constant_.emplace(loaded_.model->parameters);
  return loaded_;
}

EmbeddingOptions Evaluation::embedding(FeatureForm form) {
  return {.batch_size = batch_size_,
          .workers = workers_,
          .form = form,
          .left_out = [this](const std::string& sentence) { leave_out(sentence); }};
}

void Evaluation::leave_out(const std::string& sentence) {
  std::cerr << concat("left out: ", one_line(sentence), '\n');
  ++left_out_;
}

void Evaluation::write(const std::function<nlohmann::ordered_json()>& figures) {
  if (!json_) return;
  const std::string text =
      figures().dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + '\n';
  json_->write(text.data(), std::ssize(text));
  json_->commit();
}

}  // namespace clip
