#include "autograd/parameter_list.h"

namespace clip {

void ParameterList::add(const std::string& name, const Variable& variable) {
  for (const Parameter& parameter : parameters_)
    CLIP_CHECK(parameter.name != name, "[ParameterList] two parameters are called ", name);
  parameters_.push_back({name, variable, 0});
}

void ParameterList::lock(const std::function<bool(const std::string&)>& chosen) {
  CLIP_CHECK(!values_.defined(), "[ParameterList] lock() must come before allocate()");
  for (Parameter& parameter : parameters_) parameter.locked = chosen(parameter.name);
}

void ParameterList::allocate(Backend& backend, DType dtype) {
  int64_t total = 0;
  const auto place = [&](bool locked) {
    for (auto parameter = parameters_.rbegin(); parameter != parameters_.rend(); ++parameter) {
      if (parameter->locked != locked) continue;
      parameter->offset = total;
      const int64_t size = parameter->variable.shape().numel();
      total += (size + kParameterBlock - 1) / kParameterBlock * kParameterBlock;
    }
  };
  place(false);
  trained_ = total;
  place(true);
  values_ = Tensor::zeros(backend, {total}, sum_dtype(dtype));
  if (dtype == DType::kBF16) rounded_values_ = Tensor::zeros(backend, {total}, dtype);
  for (const Parameter& parameter : parameters_) bind(parameter);
}

void ParameterList::bind(const Parameter& parameter) const {
  const bool rounded = rounded_values_.defined() && parameter.variable.rank() > 0;
  parameter.variable.bind(
      view(rounded ? rounded_values_ : values_, parameter),
      has_training_state() && !parameter.locked ? view(gradients_, parameter) : Tensor());
}

void ParameterList::round_values() {
  if (rounded_values_) values_.backend().convert(rounded_values_, values_);
}

void ParameterList::allocate_training_state() {
  CLIP_CHECK(values_.defined(), "[ParameterList] training state needs allocated values");
  Backend& backend = values_.backend();
  for (Tensor* buffer : {&gradients_, &first_moments_, &second_moments_})
    *buffer = Tensor::zeros(backend, {trained_}, values_.dtype());
  for (const Parameter& parameter : parameters_) bind(parameter);
}

const Variable& ParameterList::find(const std::string& name) const {
  for (const Parameter& parameter : parameters_)
    if (parameter.name == name) return parameter.variable;
  throw Error(concat("[ParameterList] there is no parameter ", name));
}

int64_t ParameterList::count() const {
  int64_t total = 0;
  for (const Parameter& parameter : parameters_) total += parameter.variable.shape().numel();
  return total;
}

Tensor ParameterList::view(const Tensor& flat, const Parameter& parameter) {
  const Shape& shape = parameter.variable.shape();
  return flat.slice(parameter.offset, parameter.offset + shape.numel()).reshape(shape);
}

void ParameterList::clear_gradients() {
  for (const Parameter& parameter : parameters_) parameter.variable.clear_gradient();
}

void ParameterList::settle_gradients() {
  for (const Parameter& parameter : parameters_) {
    if (parameter.locked || parameter.variable.has_grad()) continue;
    Tensor gradient = parameter.variable.gradient_slot().gradient;
    gradient.backend().fill_zero(gradient);
  }
}

}  // namespace clip
