// Variable: a tensor that may want a gradient.
#pragma once

#include <memory>

#include "engine/backend.h"
#include "engine/tensor.h"

namespace clip {

/// Where a backward kernel puts a gradient, and whether it writes or adds. Undefined if none is
/// wanted.
struct GradientSlot {
  Tensor gradient;
  Accumulate accumulate = Accumulate::kNo;
};

/// A value, and a shared handle to its gradient. The first gradient that arrives is written, later ones are added;
/// nothing is zero-filled. Copies share the gradient.
class Variable {
 public:
  Variable() = default;
  explicit Variable(Tensor value, bool requires_grad = false);
  /// The result of a recorded op: not a leaf.
  static Variable computed(Tensor value, bool requires_grad);
  /// A parameter of this shape, without memory until a ParameterList binds it.
  static Variable parameter(const Shape& shape);

  bool defined() const { return node_ != nullptr; }
  const Tensor& value() const { return node_->is_parameter ? node_->parameter : value_; }
  bool has_value() const { return value().defined(); }  ///< false after gradient_only()
  const Shape& shape() const { return node_->shape; }
  int rank() const { return shape().rank(); }
  int64_t size(int axis) const { return shape()[axis]; }
  int64_t width() const { return rank() == 0 ? 1 : shape()[-1]; }
  DType dtype() const { return value().dtype(); }
  Backend& backend() const { return value().backend(); }

  bool requires_grad() const { return defined() && node_->requires_grad; }
  bool has_grad() const { return defined() && node_->has_grad; }
  const Tensor& grad() const { return node_->gradient; }

  /// The gradient's buffer, made on first use. Undefined if no gradient is wanted, or the Variable (an absent bias) is
  /// undefined.
  GradientSlot gradient_slot() const;
  /// Hands over a finished gradient: adopted without a copy if it is the first, else added.
  void accept_gradient(const Tensor& gradient) const;
  /// Forgets the gradient; the next one to arrive is written.
  void clear_gradient() const;

  /// The same gradient without the value: what a backward closure keeps of an input whose value it does not need, so
  /// that the value's memory is free after its last use.
  Variable gradient_only() const;
  /// Parameters only: value, and the fixed place of the gradient (undefined: inference).
  void bind(Tensor value, Tensor gradient) const;
  /// True unless an op made it: its gradient is for the caller to see.
  bool is_leaf() const { return !node_->is_computed; }

  /// What the gradient is kept in: the value's dtype, but F32 for parameters that are computed with in BF16.
  DType gradient_dtype() const { return node_->gradient_dtype; }
  void set_gradient_dtype(DType dtype) const { node_->gradient_dtype = dtype; }

  /// Counts the recorded ops that will still send this variable a gradient; Tape keeps the count.
  void add_use() const { ++node_->uses; }
  /// returns true if that was the last one
  bool end_use() const { return --node_->uses == 0; }
  /// True if both are copies of one variable.
  bool is_same(const Variable& other) const { return node_ == other.node_; }

 private:
  struct Node {
    Shape shape;
    DType gradient_dtype = DType::kF32;
    int64_t uses = 0;
    Backend* backend = nullptr;
    Tensor gradient;
    Tensor parameter;  // the value, of parameters
    bool requires_grad = false;
    bool has_grad = false;
    bool is_parameter = false;
    bool is_computed = false;
  };
  Tensor value_;
  std::shared_ptr<Node> node_;
};

}  // namespace clip
