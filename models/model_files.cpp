#include "models/model_files.h"

#include <array>
#include <filesystem>

namespace clip {
namespace {

namespace fs = std::filesystem;

struct Known {
  const char* weights;
  const char* config;
  ModelFiles::Layout layout;
};
constexpr std::array<Known, 6> kKnown = {{
    {"open_clip_model.safetensors", "open_clip_config.json", ModelFiles::Layout::kOpenClip},
    {"open_clip_pytorch_model.bin", "open_clip_config.json", ModelFiles::Layout::kOpenClip},
    {"model.safetensors", "config.json", ModelFiles::Layout::kHuggingFace},
    {"model.safetensors.index.json", "config.json", ModelFiles::Layout::kHuggingFace},
    {"pytorch_model.bin", "config.json", ModelFiles::Layout::kHuggingFace},
    {"pytorch_model.bin.index.json", "config.json", ModelFiles::Layout::kHuggingFace},
}};
constexpr std::array<const char*, 5> kTokenizers = {"tokenizer.json", "vocab.json", "merges.txt",
                                                    "bpe_simple_vocab_16e6.txt.gz",
                                                    "bpe_simple_vocab_16e6.txt"};

// The path of a file in a folder, empty if it is not there.
std::string existing(const fs::path& folder, const char* name) {
  std::error_code error;
  return fs::is_regular_file(folder / name, error) ? (folder / name).string() : std::string();
}

}  // namespace

std::optional<ModelFiles> find_model_files(const std::string& path) {
  std::error_code error;
  const bool is_folder = fs::is_directory(path, error);
  if (!is_folder && !fs::exists(path, error)) return std::nullopt;
  const fs::path folder = is_folder ? fs::path(path) : fs::path(path).parent_path();
  ModelFiles files;
  if (!is_folder) files.weights = path;
  for (const Known& known : kKnown) {
    if (!is_folder && fs::path(path).filename() != known.weights) continue;
    const std::string weights = existing(folder, known.weights);
    if (weights.empty()) continue;
    files.weights = is_folder ? weights : path;
    files.config = existing(folder, known.config);
    if (files.config.empty()) {
      files.missing_config = (folder / known.config).string();
    } else {
      files.layout = known.layout;
    }
    if (files.layout == ModelFiles::Layout::kHuggingFace) {
      files.preprocessor = existing(folder, "preprocessor_config.json");
      files.processor = existing(folder, "processor_config.json");
    }
    break;
  }
  if (files.weights.empty()) return std::nullopt;
  for (const char* name : kTokenizers)
    if (files.tokenizer.empty()) files.tokenizer = existing(folder, name);
  return files;
}

bool is_replaceable(const std::string& path) {
  std::error_code error;
  return fs::is_directory(path, error) &&
         (find_model_files(path) || !existing(path, kKnown[0].config).empty() ||
          !existing(path, kOpenAiFile).empty() || fs::is_empty(path, error));
}

std::string weight_file_names() {
  std::string names;
  for (const Known& known : kKnown)
    names += (names.empty() ? "" : ", ") + std::string(known.weights);
  return names;
}

}  // namespace clip
