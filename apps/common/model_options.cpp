#include "apps/common/model_options.h"

#include <iostream>

#include "apps/common/program.h"
#include "models/model_files.h"

namespace po = boost::program_options;

namespace clip {

po::options_description_easy_init add_first_options(po::options_description& options) {
  // clang-format off
  return options.add_options()
    ("help", "print this and exit")
    ("checkpoint", po::value<std::string>()->default_value(""),
     "a checkpoint's folder or a run's (its newest checkpoint), an open_clip or Hugging Face folder, or a weight file: "
     "OpenAI's .pt, a state dict (.pt, .bin), .safetensors");
  // clang-format on
}

void add_model_options(po::options_description& options) {
  const auto text = [] { return po::value<std::string>()->default_value(""); };
  // clang-format off
  options.add_options()
    ("model", text(), "for weights without a configuration: the model by name, or an open_clip configuration file "
                      "(.json); empty: by the shapes; must agree with a configuration that there is")
    ("force-quick-gelu", po::bool_switch(), "the model computes QuickGELU, whatever its files say")
    ("tokenizer", text(), "tokenizer.json, vocab.json with merges.txt beside it, a merges file, or a folder with "
                          "them; empty: the one beside the weights, else CLIP's own if its 49,408 ids fit and "
                          "data/ has it")
    ("bpe", text(), kBpeHelp);
  // clang-format on
}

VocabularyChoice::VocabularyChoice(const po::variables_map& values)
    : tokenizer(values["tokenizer"].as<std::string>()), bpe(values["bpe"].as<std::string>()) {
  if (!tokenizer.empty() && !bpe.empty())
    throw UsageError("--bpe and --tokenizer both name a vocabulary; give one of them");
}

ModelOptions::ModelOptions(const po::variables_map& values)
    : choice{values["model"].as<std::string>(), values["force-quick-gelu"].as<bool>()},
      vocabulary(values) {}

bool ModelOptions::given() const {
  return !choice.model.empty() || choice.force_quick_gelu || vocabulary.given();
}

std::optional<double> LoadedModel::logit_bias() const {
  const Variable& bias = model->clip.logit_bias;
  return bias.defined() ? std::optional(bias.value().item()) : std::nullopt;
}

Image LoadedModel::prepare(const Image& image) const {
  const VisionConfig& vision = model->clip.config.vision;
  return prepare_image(image, vision.image_size, vision.preprocess);
}

void warn_not_finite(const std::vector<std::string>& parameters, const std::string& checkpoint) {
  if (parameters.empty()) return;
  const size_t others = parameters.size() - 1;
  std::cerr << one_line(concat("warning: ", checkpoint, ": NaN or infinity in ", parameters[0],
                               others == 0 ? "" : concat(" and ", others, " other tensors")))
            << '\n';
}

namespace {

bool has_own_tokenizer(const std::string& checkpoint) {
  const auto files = find_model_files(checkpoint);
  return files && !files->tokenizer.empty();
}

bool has_clip_vocabulary(const ClipConfig& config) {
  return config.text.vocab_size == TextConfig().vocab_size;
}

// Of weights without a tokenizer beside them, which by their vocabulary take CLIP's.
Tokenizer clip_tokenizer_for(const std::string& checkpoint) {
  CLIP_CHECK(find_clip_merges(), checkpoint,
             " has CLIP's 49,408 embeddings and no tokenizer beside it, and "
             "data/bpe_simple_vocab_16e6.txt.gz is neither in this folder nor in one above the "
             "program: make deps fetches it; --bpe FILE or --tokenizer FILE names one");
  return clip_tokenizer();
}

}  // namespace

Tokenizer load_tokenizer(const std::string& checkpoint, const VocabularyChoice& choice,
                         const ClipConfig& config) {
  const bool takes_clips = has_clip_vocabulary(config) && !has_own_tokenizer(checkpoint);
  Tokenizer tokenizer = choice.given() ? choice.load()
                        : takes_clips  ? clip_tokenizer_for(checkpoint)
                                       : load_tokenizer(checkpoint);
  CLIP_CHECK(tokenizer.vocab_size() <= config.text.vocab_size, "the tokenizer ",
             choice.given() ? choice.path() : "of " + checkpoint, " has ", tokenizer.vocab_size(),
             " ids, the model has embeddings for ", config.text.vocab_size);
  return tokenizer;
}

LoadedModel load_model(const std::string& path, const ModelOptions& options, Backend& backend,
                       DType precision, Words words) {
  LoadedModel loaded;
  loaded.checkpoint = find_checkpoint(path);
  const ClipConfig config = load_config(loaded.checkpoint, options.choice);
  const bool has_words = options.vocabulary.given() || has_own_tokenizer(loaded.checkpoint) ||
                         (has_clip_vocabulary(config) && find_clip_merges());
  if (words == Words::kNeeded || has_words)
    loaded.tokenizer =
        std::make_unique<Tokenizer>(load_tokenizer(loaded.checkpoint, options.vocabulary, config));
  loaded.model = std::make_unique<ClipModel>(config, backend, precision);
  warn_not_finite(load_parameters(loaded.checkpoint, loaded.model->parameters), loaded.checkpoint);
  return loaded;
}

}  // namespace clip
