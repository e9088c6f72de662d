#include "autograd/ops.h"

namespace clip {

std::vector<Variable> recompute(
    const std::function<std::vector<Variable>(const std::vector<Variable>&)>& function,
    const std::vector<Variable>& inputs) {
  if (Tape::active() == nullptr) return function(inputs);
  std::vector<Tensor> ys;
  std::vector<Variable> used = inputs;
  {
    Tape tape;  // tells which parameters are used; what it has recorded is dropped
    for (const Variable& y : function(inputs)) ys.push_back(y.value());
    for (const Variable& leaf : tape.leaves()) used.push_back(leaf);
  }
  // Its ops tell of themselves.
  return record({"recompute", moves(0, 0)}, ys, used, [=](const std::vector<Tensor>& dys) {
    std::vector<Variable> leaves, outputs;
    std::vector<Tensor> gradients;
    for (const Variable& input : inputs) {
      leaves.emplace_back(input.value(), input.requires_grad());
      leaves.back().set_gradient_dtype(input.gradient_dtype());
    }
    Tape tape;
    const std::vector<Variable> again = function(leaves);
    for (size_t i = 0; i < again.size(); ++i) {
      if (!dys[i] || !again[i].requires_grad()) continue;
      outputs.push_back(again[i]);
      gradients.push_back(dys[i]);
    }
    tape.backward(outputs, gradients);
    for (size_t i = 0; i < inputs.size(); ++i)
      if (leaves[i].has_grad()) inputs[i].accept_gradient(leaves[i].grad());
  });
}

}  // namespace clip
