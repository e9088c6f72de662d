// The weights of a CLIP model from any of the files that carry them, under OpenAI's names.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/tensor.h"
#include "models/config.h"
#include "models/stored_tensor.h"

namespace clip {

/// A parameter as files hold it.
struct Weight {
  std::vector<StoredTensor> pieces;  ///< the rows of one follow those of the other: q, k, v
  std::string file;                  ///< the path, and the (first) tensor's name in it
  std::string name;

  std::vector<int64_t> shape() const;  ///< of all pieces together
  int64_t numel() const;
  std::string dtype() const { return pieces[0].dtype; }
  /// throws clip::Error that names file, tensor and dtype if it is no float
  void check_float() const;
  /// Copies all numbers, row after row, as F32 or F64.
  void read(DType to_dtype, void* to) const;
};

/// How to read weights that come without a configuration.
struct WeightChoice {
  std::string model;  ///< a name or an open_clip configuration file; empty: by the shapes
  bool force_quick_gelu = false;  ///< the model computes QuickGELU, whatever its files say
};

/// Opened weight files; nothing is read but names and places.
class Weights {
 public:
  enum class Container { kSafetensors, kTorchStateDict, kTorchScript };

  /// path      a .safetensors file, a torch file (models/torch_file.h), or the index.json of a
  ///           model in several such files
  /// throws    clip::Error that names the file and the tensor: damaged, of an unknown format, or
  ///           with only some of q, k and v
  explicit Weights(const std::string& path);

  const std::map<std::string, Weight>& all() const { return all_; }
  const Weight* find(const std::string& name) const;  ///< null if there is none
  const Weight& at(const std::string& name) const;    ///< throws clip::Error that it is missing

  const std::string& path() const { return path_; }
  Container container() const { return container_; }
  bool has_hugging_face_names() const { return has_hugging_face_names_; }
  /// Set if the files themselves tell what the model computes: OpenAI's do, by the classes of an
  /// archive or by the sizes kept beside the weights, which no other library writes.
  std::optional<Gelu> gelu() const { return gelu_; }

 private:
  struct Opened {
    std::string path;
    std::shared_ptr<const void> file;  // owns what the weights point to
    const std::map<std::string, StoredTensor>* tensors;
  };

  void open(const std::string& path);
  void open_index(const std::string& path);

  std::string path_;
  Container container_ = Container::kSafetensors;
  bool has_hugging_face_names_ = false;
  std::optional<Gelu> gelu_;
  std::vector<Opened> opened_;
  std::map<std::string, Weight> all_;
};

/// Whether a weight can be read into a tensor of this shape; a scalar may be stored as [1].
bool fits(const Weight& weight, const Shape& shape);

/// What a weight is read into: F32 or F64, on any device.
struct WeightTarget {
  std::string name;
  Tensor tensor;
};

/// Fills every target. Returns the names of those that hold NaN or infinity.
/// throws clip::Error that names file and tensor: missing, left over, no float or of another shape;
/// then nothing was read
std::vector<std::string> read_weights(const Weights& weights,
                                      const std::vector<WeightTarget>& targets);

/// The model whose weights these are, by their shapes. Heads are those of the named model that has
/// the same sizes, else 64 wide as OpenAI's are.
/// throws clip::Error if the tensors make no CLIP; clip::UsageError that names the options if
/// nothing says whether it computes QuickGELU
/// source openai/CLIP clip/model.py, build_model
ClipConfig infer_config(const Weights& weights, const WeightChoice& choice);

}  // namespace clip
