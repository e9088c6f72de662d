#include "autograd/tape.h"

#include <utility>

namespace clip {
namespace {

thread_local Tape* active_tape = nullptr;
thread_local const std::function<void(std::string_view)>* op_observer = nullptr;

void tell_observer(std::string_view op) {
  if (op_observer != nullptr) (*op_observer)(op);
}

}  // namespace

Tape::Tape() : outer_(std::exchange(active_tape, this)) {}

Tape::~Tape() {
  active_tape = outer_;
  for (const Entry& entry : entries_)  // never run, or not to its end
    for (const Variable& leaf : entry.leaves) leaf.end_use();
}

Tape* Tape::active() { return active_tape; }

TapePause::TapePause() : paused_(std::exchange(active_tape, nullptr)) {}

TapePause::~TapePause() { active_tape = paused_; }

OpObserver::OpObserver(std::function<void(std::string_view)> observe)
    : observe_(std::move(observe)), outer_(std::exchange(op_observer, &observe_)) {}

OpObserver::~OpObserver() { op_observer = outer_; }

void Tape::backward(const Variable& loss, const Ready& ready) {
  CLIP_CHECK(loss.shape() == Shape{}, "[backward] the loss must be a scalar, got ", loss.shape());
  Backend& backend = loss.backend();
  const Tensor one = loss.dtype() == DType::kF64 ? Tensor::from<double>(backend, {}, {1.0})
                                                 : Tensor::from<float>(backend, {}, {1.0f});
  backward({loss}, {one}, ready);
}

void Tape::backward(const std::vector<Variable>& outputs, const std::vector<Tensor>& gradients,
                    const Ready& ready) {
  CLIP_CHECK(outputs.size() == gradients.size(), "[backward] ", outputs.size(),
             " outputs need as many gradients, got ", gradients.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    CLIP_CHECK(outputs[i].requires_grad(), "[backward] output ", i,
               " does not depend on anything that wants a gradient");
    CLIP_CHECK(has_shape(gradients[i], outputs[i].shape()), "[backward] gradient ", i, " must be ",
               outputs[i].shape(), ", got ", gradients[i].shape());
    outputs[i].accept_gradient(gradients[i]);
  }
  run(ready);
}

std::vector<Variable> Tape::leaves() const {
  std::vector<Variable> all;
  for (const Entry& entry : entries_)
    all.insert(all.end(), entry.leaves.begin(), entry.leaves.end());
  return all;
}

void Tape::run(const Ready& ready) {
  TapePause
      pause;  // backward closures call ops of a backend, but nothing they do is to be recorded
  while (!entries_.empty()) {
    Entry& entry = entries_.back();  // stays until it is done: if it throws, ~Tape ends its uses
    std::vector<Tensor> gradients;
    bool reached = false;
    for (const Variable& output : entry.outputs) {
      gradients.push_back(output.has_grad() ? output.grad() : Tensor());
      reached = reached || output.has_grad();
      output.clear_gradient();
    }
    if (reached) {
      entry.backward(gradients);
      tell_observer(entry.op);
    }
    while (!entry.leaves.empty()) {
      const Variable leaf = std::move(entry.leaves.back());
      entry.leaves.pop_back();
      if (leaf.end_use() && ready) ready(leaf);
    }
    entries_.pop_back();
  }
}

std::vector<Variable> record(std::string_view op, std::vector<Tensor> ys,
                             const std::vector<Variable>& inputs,
                             std::function<void(const std::vector<Tensor>&)> backward) {
  tell_observer(op);
  bool wanted = false;
  for (const Variable& input : inputs) wanted = wanted || input.requires_grad();
  wanted = wanted && active_tape != nullptr;
  std::vector<Variable> outputs;
  for (Tensor& y : ys) outputs.push_back(Variable::computed(std::move(y), wanted));
  if (!wanted) return outputs;
  Tape::Entry entry{op, {}, {}, std::move(backward)};
  for (const Variable& output : outputs) entry.outputs.push_back(output.gradient_only());
  for (const Variable& input : inputs) {
    if (!input.requires_grad() || !input.is_leaf()) continue;
    input.add_use();
    entry.leaves.push_back(input);
  }
  active_tape->entries_.push_back(std::move(entry));
  return outputs;
}

Variable record(std::string_view op, Tensor y, const std::vector<Variable>& inputs,
                std::function<void(const Tensor&)> backward) {
  std::vector<Tensor> ys = {std::move(y)};
  return record(
      op, std::move(ys), inputs,
      [backward = std::move(backward)](const std::vector<Tensor>& dys) { backward(dys[0]); })[0];
}

}  // namespace clip
