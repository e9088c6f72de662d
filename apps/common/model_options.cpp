#include "apps/common/model_options.h"

#include <iostream>

#include "apps/common/program.h"
#include "models/model_files.h"

namespace po = boost::program_options;

namespace clip {

void add_model_options(po::options_description& options) {
  const auto text = [] { return po::value<std::string>()->default_value(""); };
  // clang-format off
  options.add_options()
    ("model", text(), "for weights without a configuration: the model by name, or an open_clip configuration file "
                      "(.json); empty: by the shapes")
    ("force-quick-gelu", po::bool_switch(), "the model computes QuickGELU, whatever its files say")
    ("tokenizer", text(), "tokenizer.json, merges.txt or bpe_simple_vocab_16e6.txt.gz; empty: the one beside the "
                          "weights");
  // clang-format on
}

ModelOptions::ModelOptions(const po::variables_map& values)
    : choice{values["model"].as<std::string>(), values["force-quick-gelu"].as<bool>()},
      tokenizer(values["tokenizer"].as<std::string>()) {}

bool ModelOptions::given() const {
  return !choice.model.empty() || choice.force_quick_gelu || !tokenizer.empty();
}

void warn_not_finite(const std::vector<std::string>& parameters, const std::string& checkpoint) {
  if (parameters.empty()) return;
  const size_t others = parameters.size() - 1;
  std::cerr << one_line(concat("warning: ", checkpoint, ": NaN or infinity in ", parameters[0],
                               others == 0 ? "" : concat(" and ", others, " other tensors")))
            << '\n';
}

Tokenizer load_tokenizer(const std::string& checkpoint, const std::string& option,
                         const ClipConfig& config) {
  Tokenizer tokenizer = option.empty() ? load_tokenizer(checkpoint) : Tokenizer::load(option);
  CLIP_CHECK(tokenizer.vocab_size() <= config.text.vocab_size, "the tokenizer ",
             option.empty() ? "of " + checkpoint : option, " has ", tokenizer.vocab_size(),
             " ids, the model has embeddings for ", config.text.vocab_size);
  return tokenizer;
}

LoadedModel load_model(const std::string& path, const ModelOptions& options, Backend& backend,
                       Words words) {
  LoadedModel loaded;
  loaded.checkpoint = find_checkpoint(path);
  const ClipConfig config = load_config(loaded.checkpoint, options.choice);
  const bool has_words =
      !options.tokenizer.empty() || !find_model_files(loaded.checkpoint)->tokenizer.empty();
  if (words == Words::kNeeded || has_words)
    loaded.tokenizer =
        std::make_unique<Tokenizer>(load_tokenizer(loaded.checkpoint, options.tokenizer, config));
  loaded.model = std::make_unique<ClipModel>(config, backend);
  warn_not_finite(load_parameters(loaded.checkpoint, loaded.model->parameters), loaded.checkpoint);
  return loaded;
}

}  // namespace clip
