// Files of torch.save (since PyTorch 1.6) and torch.jit.save: a zip archive with a pickle that
// describes the tensors and a member per storage. Source: pytorch's torch/serialization.py and
// torch/csrc/jit/serialization/pickler.cpp.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "models/safetensors.h"
#include "models/zip_file.h"

namespace clip {

/// The tensors of such a file, by their names in the state dict or the module tree.
class TorchFile {
 public:
  enum class Kind {
    kStateDict,  ///< a dict of tensors, or a training checkpoint with one under "state_dict"
    kScript,     ///< a TorchScript module
  };

  /// Nothing of the file is run: its pickle may name tensors, plain containers and TorchScript's
  /// own classes alone.
  /// throws clip::Error that names the path and what is wrong, or that the format is that from
  /// before PyTorch 1.6, which is not read
  explicit TorchFile(const std::string& path);

  Kind kind() const { return kind_; }
  const std::map<std::string, StoredTensor>& entries() const { return entries_; }
  /// Names of the classes of a TorchScript module's parts, by the parts' names.
  const std::map<std::string, std::string>& classes() const { return classes_; }
  const std::string& path() const { return zip_.path(); }

 private:
  friend class TensorCollector;
  MappedFile file_;
  ZipFile zip_;
  Kind kind_ = Kind::kStateDict;
  std::map<std::string, StoredTensor> entries_;
  std::map<std::string, std::string> classes_;
};

/// Writes a state dict that torch.load(..., weights_only=True) reads; order is kept. Items may also
/// be of dtype I32.
/// throws as write_safetensors does, and beyond 4 GB
void write_torch_file(const std::string& path, const std::vector<SafetensorsItem>& items);

}  // namespace clip
