// Parameters carry OpenAI's names here; other libraries call, cut and turn them differently.
#pragma once

#include <string>
#include <vector>

namespace clip {

/// A tensor of another library as a part of one of our parameters.
struct NamedPart {
  std::string name;       ///< in the other naming
  std::string parameter;  ///< ours
  size_t part = 0;        ///< which rows of the parameter, of `parts` equal shares: q, k, v
  size_t parts = 1;
  bool transposed = false;  ///< it is [E, C] where ours is [C, E]
};

/// Whether a name is one that Hugging Face's CLIPModel uses and OpenAI's does not.
bool is_hugging_face_name(const std::string& name);

/// What a tensor of CLIPModel is to us; a name that it does not know is kept.
NamedPart from_hugging_face(const std::string& name);
/// The tensors that CLIPModel keeps a parameter of ours as; throws clip::Error if it has no place.
std::vector<NamedPart> to_hugging_face(const std::string& parameter);

/// OpenAI's name of a tensor of open_clip's trainers: without "module." (of DistributedDataParallel),
/// "_orig_mod." (of torch.compile) and "text." (of CustomTextCLIP).
std::string without_wrappers(std::string name);

/// Whether a tensor is no parameter: masks, position numbers and sizes that some files keep.
bool is_bookkeeping(const std::string& name);

}  // namespace clip
