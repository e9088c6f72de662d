#include "autograd/tape.h"

#include <utility>

namespace clip {
namespace {

thread_local Tape* active_tape = nullptr;
thread_local const OpObserver::Observe* op_observer = nullptr;

double bytes_of(const std::vector<Tensor>& tensors) {
  double bytes = 0;
  for (const Tensor& tensor : tensors)
    if (tensor) bytes += static_cast<double>(tensor.bytes());
  return bytes;
}

double bytes_of(const Variable& variable, DType dtype) {
  return static_cast<double>(variable.shape().numel() * size_of(dtype));
}

double forward_bytes(const std::vector<Variable>& inputs) {
  double bytes = 0;
  for (const Variable& x : inputs)
    if (x.defined()) bytes += bytes_of(x, x.has_value() ? x.dtype() : x.gradient_dtype());
  return bytes;
}

double backward_bytes(const std::vector<Variable>& inputs) {
  double bytes = 0;
  for (const Variable& x : inputs) {
    if (x.defined() && x.has_value()) bytes += bytes_of(x, x.dtype());
    if (x.requires_grad()) bytes += bytes_of(x, x.gradient_dtype());
  }
  return bytes;
}

/// bytes    those that are moved unless op.costs knows better
void tell_observer(const Op& op, Pass pass, double bytes) {
  (*op_observer)({op.name, pass, [&] {
                    OpCost cost = op.costs ? op.costs(pass) : OpCost();
                    if (cost.bytes < 0) cost.bytes = bytes;
                    return cost;
                  }});
}

}  // namespace

OpCosts products(int64_t forward, int64_t backward) {
  return [=](Pass pass) {
    return OpCost{2.0 * static_cast<double>(pass == Pass::kForward ? forward : backward)};
  };
}

OpCosts one_product(const Variable& a, const Variable& b, int64_t multiply_adds) {
  return products(multiply_adds, multiply_adds * (a.requires_grad() + b.requires_grad()));
}

OpCosts moves(int64_t forward, int64_t backward) {
  return [=](Pass pass) {
    return OpCost{0, static_cast<double>(pass == Pass::kForward ? forward : backward)};
  };
}

Tape::Tape() : outer_(std::exchange(active_tape, this)) {}

Tape::~Tape() {
  active_tape = outer_;
  for (const Entry& entry : entries_)  // never run, or not to its end
    for (const Variable& leaf : entry.leaves) leaf.end_use();
}

Tape* Tape::active() { return active_tape; }

TapePause::TapePause() : paused_(std::exchange(active_tape, nullptr)) {}

TapePause::~TapePause() { active_tape = paused_; }

OpObserver::OpObserver(Observe observe)
    : observe_(std::move(observe)), outer_(std::exchange(op_observer, &observe_)) {}

OpObserver::~OpObserver() { op_observer = outer_; }

void tell_observer(std::string_view work) {
  if (op_observer != nullptr) (*op_observer)({work, Pass::kNone, [] { return OpCost{0, 0}; }});
}

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
      if (op_observer != nullptr)
        tell_observer(entry.op, Pass::kBackward, entry.bytes + bytes_of(gradients));
    }
    while (!entry.leaves.empty()) {
      const Variable leaf = std::move(entry.leaves.back());
      entry.leaves.pop_back();
      if (leaf.end_use() && ready) ready(leaf);
    }
    entries_.pop_back();
  }
}

std::vector<Variable> record(Op op, std::vector<Tensor> ys, const std::vector<Variable>& inputs,
                             std::function<void(const std::vector<Tensor>&)> backward) {
  if (op_observer != nullptr)
    tell_observer(op, Pass::kForward, forward_bytes(inputs) + bytes_of(ys));
  bool wanted = false;
  for (const Variable& input : inputs) wanted = wanted || input.requires_grad();
  wanted = wanted && active_tape != nullptr;
  std::vector<Variable> outputs;
  for (Tensor& y : ys) outputs.push_back(Variable::computed(std::move(y), wanted));
  if (!wanted) return outputs;
  Tape::Entry entry{std::move(op), backward_bytes(inputs), {}, {}, std::move(backward)};
  for (const Variable& output : outputs) entry.outputs.push_back(output.gradient_only());
  for (const Variable& input : inputs) {
    if (!input.requires_grad() || !input.is_leaf()) continue;
    input.add_use();
    entry.leaves.push_back(input);
  }
  active_tape->entries_.push_back(std::move(entry));
  return outputs;
}

Variable record(Op op, Tensor y, const std::vector<Variable>& inputs,
                std::function<void(const Tensor&)> backward) {
  std::vector<Tensor> ys = {std::move(y)};
  return record(
      std::move(op), std::move(ys), inputs,
      [backward = std::move(backward)](const std::vector<Tensor>& dys) { backward(dys[0]); })[0];
}

}  // namespace clip
