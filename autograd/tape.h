// Tape: what was computed, in order, with how to go back. No tape, no gradient.
#pragma once

#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd/variable.h"

namespace clip {

/// Which way an op runs; kNone is work that is no op.
enum class Pass { kNone, kForward, kBackward };

/// What an op does at least, for measuring.
struct OpCost {
  double flop = 0;    ///< of the products it runs, two for a multiply-add
  double bytes = -1;  ///< to move; -1: as record() counts them
};

/// The cost of a pass. It may read from the device, and is asked only for an observer.
using OpCosts = std::function<OpCost(Pass)>;

/// An op by its name, which lives as long as the program. Without costs it has no products.
struct Op {
  Op(const char* op_name, OpCosts op_costs = {}) : name(op_name), costs(std::move(op_costs)) {}
  std::string_view name;
  OpCosts costs;
};

/// Products of so many multiply-adds.
OpCosts products(int64_t forward, int64_t backward);
/// One product of a and b: backward runs as many again for each of their gradients that is wanted.
OpCosts one_product(const Variable& a, const Variable& b, int64_t multiply_adds);
/// No products, and so many bytes to move: of an op that touches some rows of its inputs alone.
OpCosts moves(int64_t forward, int64_t backward);

/// Records the ops run on this thread while it lives. The order of execution is a topological
/// order, so backward is one reverse loop, which frees what it has used. Tapes nest: the innermost
/// records.
class Tape {
 public:
  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// Called with each leaf (a parameter) as soon as nothing recorded can change its gradient any
  /// more.
  using Ready = std::function<void(const Variable& leaf)>;

  /// Adds d loss / d x to the gradient of every recorded x that wants one, then empties the tape.
  /// loss  [] F32 or F64
  void backward(const Variable& loss, const Ready& ready = {});
  /// The same from given gradients of several outputs (a GradCache or recomputation step).
  void backward(const std::vector<Variable>& outputs, const std::vector<Tensor>& gradients,
                const Ready& ready = {});

  /// The leaves that want a gradient and were used so far, each once per use.
  std::vector<Variable> leaves() const;

  static Tape* active();  ///< the innermost tape of this thread, or null

 private:
  friend class TapePause;
  friend std::vector<Variable> record(Op, std::vector<Tensor>, const std::vector<Variable>&,
                                      std::function<void(const std::vector<Tensor>&)>);
  struct Entry {
    Op op;
    double bytes;  // of inputs and of their gradients
    std::vector<Variable> outputs;
    std::vector<Variable> leaves;  // among the inputs
    std::function<void(const std::vector<Tensor>&)> backward;
  };
  void run(const Ready& ready);

  std::vector<Entry> entries_;
  Tape* outer_;
};

/// Nothing is recorded on this thread while it lives.
class TapePause {
 public:
  TapePause();
  ~TapePause();
  TapePause(const TapePause&) = delete;
  TapePause& operator=(const TapePause&) = delete;

 private:
  Tape* paused_;
};

/// What an observer is told of.
struct OpRun {
  std::string_view name;
  Pass pass;
  std::function<OpCost()> cost;  ///< may wait for the device: to be asked once the time is taken
};

/// While it lives, `observe` is called on this thread after each op, forward and backward, and after
/// other work that is told of: for measuring. They nest: the innermost is called.
class OpObserver {
 public:
  using Observe = std::function<void(const OpRun&)>;
  explicit OpObserver(Observe observe);
  ~OpObserver();
  OpObserver(const OpObserver&) = delete;
  OpObserver& operator=(const OpObserver&) = delete;

 private:
  Observe observe_;
  const Observe* outer_;
};

/// Tells the observer, if there is one, that work which is no op has been done: an update of the
/// parameters, waiting for data.
void tell_observer(std::string_view work);

/// Wraps an op's result. If a tape is active and an input wants a gradient, remembers how to send
/// the result's gradient back; what the closure captures is what is saved.
/// inputs    one whose value the closure does not need comes as gradient_only()
/// backward  gets the gradient of y; puts gradients into the inputs' slots
/// Bytes that op.costs does not give: forward inputs and outputs, backward the inputs that have a
/// value and all gradients, each once.
Variable record(Op op, Tensor y, const std::vector<Variable>& inputs,
                std::function<void(const Tensor& dy)> backward);

/// The same for several outputs; gradients that never arrived are undefined, but not all of them.
std::vector<Variable> record(Op op, std::vector<Tensor> ys, const std::vector<Variable>& inputs,
                             std::function<void(const std::vector<Tensor>& dys)> backward);

}  // namespace clip
