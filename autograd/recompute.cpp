#include "autograd/ops.h"

namespace clip {

Variable recompute(const std::function<Variable(const std::vector<Variable>&)>& function,
                   const std::vector<Variable>& inputs) {
  Variable y;
  {
    TapePause pause;
    y = function(inputs);
  }
  // Parameters that only `function` knows want gradients too, whatever the inputs do: a variable
  // that wants one stands for them.
  const Variable parameters(Tensor::empty(y.backend(), {0}, y.dtype()), true);
  std::vector<Variable> all = inputs;
  all.push_back(parameters);
  return record("recompute", y.value(), all, [=](const Tensor& dy) {
    std::vector<Variable> leaves;
    for (const Variable& input : inputs) leaves.emplace_back(input.value(), input.requires_grad());
    Tape tape;
    const Variable again = function(leaves);
    if (!again.requires_grad()) return;
    tape.backward({again}, {dy});
    for (size_t i = 0; i < inputs.size(); ++i)
      if (leaves[i].has_grad()) inputs[i].accept_gradient(leaves[i].grad());
  });
}

}  // namespace clip
