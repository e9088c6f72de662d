// Where a model's files lie, whoever wrote them.
#pragma once

#include <optional>
#include <string>

namespace clip {

/// The files of a model. Paths are empty where there is no such file.
struct ModelFiles {
  enum class Layout {
    kOpenClip,      ///< open_clip_config.json; ours, too
    kHuggingFace,   ///< config.json of a CLIPModel
    kWeightsAlone,  ///< a file without a configuration beside it
  };

  Layout layout = Layout::kWeightsAlone;
  std::string weights;  ///< a weight file, or the index of a model in several
  std::string config;
  std::string missing_config;  ///< that of weights that should have one beside them
  std::string tokenizer;
  /// Hugging Face's preprocessor_config.json, and processor_config.json in which transformers 5 keeps
  /// the same; whichever there are.
  std::string preprocessor, processor;
};

/// path      a folder with weights, or a weight file. A file has a configuration if it bears one of
///           the names that open_clip and Hugging Face give, and their configuration is beside it
/// returns   nothing if there are no weights
std::optional<ModelFiles> find_model_files(const std::string& path);

/// The state dict of OpenAI's layout, as models/export.h writes it.
inline constexpr const char* kOpenAiFile = "model.pt";

/// Whether an exported model may take the place of what is there: a folder with a model of any
/// layout, or an empty one.
bool is_replaceable(const std::string& path);

/// The names of weight files that are looked for, as an error message lists them.
std::string weight_file_names();

}  // namespace clip
