#include "autograd/variable.h"

namespace clip {

Variable::Variable(Tensor value, bool requires_grad)
    : value_(std::move(value)), node_(std::make_shared<Node>()) {
  node_->shape = value_.shape();
  node_->gradient_dtype = value_.dtype();
  node_->backend = &value_.backend();
  node_->requires_grad = requires_grad;
}

Variable Variable::computed(Tensor value, bool requires_grad) {
  Variable variable(std::move(value), requires_grad);
  variable.node_->is_computed = true;
  return variable;
}

Variable Variable::parameter(const Shape& shape) {
  Variable variable;
  variable.node_ = std::make_shared<Node>();
  variable.node_->shape = shape;
  variable.node_->is_parameter = true;
  return variable;
}

GradientSlot Variable::gradient_slot() const {
  if (!requires_grad()) return {};
  Node& node = *node_;
  if (!node.has_grad) {
    if (!node.is_parameter)
      node.gradient = Tensor::empty(*node.backend, node.shape, node.gradient_dtype);
    node.has_grad = true;
    return {node.gradient, Accumulate::kNo};
  }
  // An adopted gradient may also be another variable's: adding here must not be seen there.
  if (!node.is_parameter && !node.gradient.is_unique()) node.gradient = node.gradient.clone();
  return {node.gradient, Accumulate::kYes};
}

void Variable::accept_gradient(const Tensor& gradient) const {
  if (!requires_grad()) return;
  if (!node_->has_grad && !node_->is_parameter) {
    node_->gradient = gradient;
    node_->has_grad = true;
    return;
  }
  auto [slot, accumulate] = gradient_slot();
  if (accumulate == Accumulate::kYes) {
    slot.backend().add(slot, gradient);
  } else {
    slot.backend().copy(slot, gradient);
  }
}

void Variable::clear_gradient() const {
  node_->has_grad = false;
  if (!node_->is_parameter) node_->gradient = {};
}

Variable Variable::gradient_only() const {
  Variable variable;
  variable.node_ = node_;
  return variable;
}

void Variable::bind(Tensor value, Tensor gradient) const {
  node_->gradient_dtype = gradient.defined() ? gradient.dtype() : value.dtype();
  node_->backend = &value.backend();
  node_->parameter = std::move(value);
  node_->requires_grad = gradient.defined();
  node_->gradient = std::move(gradient);
  node_->has_grad = false;
}

}  // namespace clip
