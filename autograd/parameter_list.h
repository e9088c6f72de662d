// The parameters of a model by name, in flat buffers.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "autograd/variable.h"

namespace clip {

struct Parameter {
  std::string name;  ///< OpenAI's state-dict name, e.g.
                     ///< "visual.transformer.resblocks.0.attn.in_proj_weight"
  Variable variable;
  int64_t offset = 0;   ///< first element in the flat buffers
  bool locked = false;  ///< not trained: a value alone
};

/// Owns one flat buffer each for values, gradients and both moments; the Variables are views of the
/// first two. The buffers hold the parameters in the order in which backward finishes them (last
/// added first), each padded to kParameterBlock elements; padding stays zero. Locked parameters come
/// after all others, so that gradients and moments end before them.
///
/// With BF16, values, gradients and moments are F32 and the Variables are views of a BF16 copy of
/// the values, which the optimizer renews; scalars (logit_scale) stay F32.
class ParameterList {
 public:
  /// Takes part in the list under this name; throws clip::Error if the name is taken.
  void add(const std::string& name, const Variable& variable);

  /// Parameters of these names are not trained: they get neither gradients nor moments, and want no
  /// gradient. Before allocate().
  void lock(const std::function<bool(const std::string& name)>& chosen);
  /// What belongs to the model and its checkpoints but is not trained: BatchNorm's running statistics.
  /// Kept in F32 with BF16; no gradient, no optimizer, not counted.
  void add_buffer(const std::string& name, const Variable& variable);

  /// Allocates the values (zero) and binds the Variables to them, or to their BF16 copy.
  void allocate(Backend& backend, DType dtype);
  /// Adds gradients and moments of what is not locked, all zero. Not needed for inference.
  void allocate_training_state();
  bool has_training_state() const { return gradients_.defined(); }

  const std::vector<Parameter>& parameters() const { return parameters_; }  ///< in the order added
  const std::vector<Parameter>& buffers() const { return buffers_; }
  const Variable& find(const std::string& name) const;  ///< throws clip::Error if there is none
  int64_t count() const;                                ///< number of scalars, padding left out

  Tensor& values() { return values_; }                ///< [total]
  Tensor& buffer_values() { return buffer_values_; }  ///< [their total]
  /// The BF16 copy [total]; undefined with other dtypes.
  Tensor& rounded_values() { return rounded_values_; }
  /// Renews the copy, if there is one, after values() were written by anybody but the optimizer.
  void round_values();
  /// The part of values() or rounded_values() that is trained; undefined of an undefined buffer.
  Tensor trained(const Tensor& flat) const { return flat ? flat.slice(0, trained_) : flat; }
  Tensor& gradients() { return gradients_; }  ///< [trained], like the moments
  Tensor& first_moments() { return first_moments_; }
  Tensor& second_moments() { return second_moments_; }
  /// The part of a flat buffer that belongs to a parameter, in its shape.
  static Tensor view(const Tensor& flat, const Parameter& parameter);

  /// After the optimizer: the next gradient of every parameter is written, not added.
  void clear_gradients();
  /// Zeroes the gradients of parameters that backward did not reach, so that the flat buffer is all
  /// valid.
  void settle_gradients();
  void settle_gradient(const Parameter& parameter);  ///< the same for one of the list

 private:
  void bind(const Parameter& parameter) const;

  std::vector<Parameter> parameters_, buffers_;
  int64_t trained_ = 0;  // elements that are not locked: the first ones
  Tensor values_, rounded_values_, gradients_, first_moments_, second_moments_;
  Tensor buffer_values_;
};

/// While it lives, a list's parameters do not change: a device may copy its matrices, each when it is
/// first used, into the order that makes products fastest. For inference of more than a few rows.
class ConstantWeights {
 public:
  explicit ConstantWeights(const ParameterList& list);
  ~ConstantWeights();
  ConstantWeights(const ConstantWeights&) = delete;
  ConstantWeights& operator=(const ConstantWeights&) = delete;

 private:
  std::vector<Tensor> weights_;
};

}  // namespace clip
