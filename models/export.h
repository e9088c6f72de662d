// Models written as other libraries keep them.
#pragma once

#include <string>

#include "models/clip.h"
#include "models/tokenizer.h"

namespace clip {

enum class ModelLayout {
  kOpenClip,     ///< open_clip_config.json, open_clip_model.safetensors
  kHuggingFace,  ///< config.json, model.safetensors, preprocessor_config.json: transformers.CLIPModel
  kOpenAi,  ///< model.pt: a state dict for clip.model.build_model, which computes QuickGELU with
            ///< heads 64 wide, so other models are refused
};

struct ExportOptions {
  ModelLayout layout = ModelLayout::kOpenClip;
  std::string stored_as;  ///< "": F32; "F16" or "BF16": rounded to it
  Towers towers = Towers::kBoth;
  bool overwrite = false;
};

/// Writes a folder: weights, configuration and, if there is one, the tokenizer's files. It appears
/// whole or not at all.
/// model       F32
/// tokenizer   may be null
/// throws clip::Error that names the path: there is something already (with overwrite: something
/// that is no model), the disk is full; or that the layout has no place for this model
void export_model(const std::string& folder, const ClipModel& model, const Tokenizer* tokenizer,
                  const ExportOptions& options);

}  // namespace clip
