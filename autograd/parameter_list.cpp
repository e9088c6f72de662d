#include "autograd/parameter_list.h"

namespace clip {

namespace {

/// Adds to one of the lists; names of parameters and buffers share a file but never meet.
void add_to(std::vector<Parameter>& list, const std::string& name, const Variable& variable) {
  for (const Parameter& parameter : list)
    CLIP_CHECK(parameter.name != name, "[ParameterList] two parameters are called ", name);
  list.push_back({name, variable, 0});
}

/// Gives each of these its place behind `begin` in a flat buffer, the last added first; returns the
/// end.
int64_t lay_out(std::vector<Parameter>& list, bool locked, int64_t begin) {
  int64_t end = begin;
  for (auto parameter = list.rbegin(); parameter != list.rend(); ++parameter) {
    if (parameter->locked != locked) continue;
    parameter->offset = end;
    const int64_t size = parameter->variable.shape().numel();
    end += (size + kParameterBlock - 1) / kParameterBlock * kParameterBlock;
  }
  return end;
}

}  // namespace

void ParameterList::add(const std::string& name, const Variable& variable) {
  add_to(parameters_, name, variable);
}

void ParameterList::add_buffer(const std::string& name, const Variable& variable) {
  add_to(buffers_, name, variable);
}

void ParameterList::lock(const std::function<bool(const std::string&)>& chosen) {
  CLIP_CHECK(!values_.defined(), "[ParameterList] lock() must come before allocate()");
  for (Parameter& parameter : parameters_) parameter.locked = chosen(parameter.name);
}

void ParameterList::allocate(Backend& backend, DType dtype) {
  trained_ = lay_out(parameters_, false, 0);
  const int64_t total = lay_out(parameters_, true, trained_);
  buffer_values_ = Tensor::zeros(backend, {lay_out(buffers_, false, 0)}, sum_dtype(dtype));
  for (const Parameter& buffer : buffers_) buffer.variable.bind(view(buffer_values_, buffer), {});
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
  for (const Parameter& parameter : parameters_) settle_gradient(parameter);
}

void ParameterList::settle_gradient(const Parameter& parameter) {
  if (parameter.locked || parameter.variable.has_grad()) return;
  Tensor gradient = parameter.variable.gradient_slot().gradient;
  gradient.backend().fill_zero(gradient);
}

ConstantWeights::ConstantWeights(const ParameterList& list) {
  for (const Parameter& parameter : list.parameters()) {
    const Tensor& value = parameter.variable.value();
    if (value.rank() < 2) continue;
    weights_.push_back(value.reshape({value.size(0), value.numel() / value.size(0)}));
    value.backend().begin_constant(weights_.back());
  }
}

ConstantWeights::~ConstantWeights() {
  for (const Tensor& weight : weights_) weight.backend().end_constant(weight);
}

}  // namespace clip
