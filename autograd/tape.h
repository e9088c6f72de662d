// Tape: what was computed, in order, with how to go back. No tape, no gradient.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "autograd/variable.h"

namespace clip {

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
  friend std::vector<Variable> record(std::string_view, std::vector<Tensor>,
                                      const std::vector<Variable>&,
                                      std::function<void(const std::vector<Tensor>&)>);
  struct Entry {
    std::string_view op;
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

/// While it lives, `observe` is called on this thread after each op, forward and backward, with the
/// op's name: for measuring. They nest: the innermost is called.
class OpObserver {
 public:
  explicit OpObserver(std::function<void(std::string_view op)> observe);
  ~OpObserver();
  OpObserver(const OpObserver&) = delete;
  OpObserver& operator=(const OpObserver&) = delete;

 private:
  std::function<void(std::string_view)> observe_;
  const std::function<void(std::string_view)>* outer_;
};

/// Wraps an op's result. If a tape is active and an input wants a gradient, remembers how to send
/// the result's gradient back; what the closure captures is what is saved. backward  gets the
/// gradient of y; puts gradients into the inputs' slots
Variable record(std::string_view op, Tensor y, const std::vector<Variable>& inputs,
                std::function<void(const Tensor& dy)> backward);

/// The same for several outputs; gradients that never arrived are undefined, but not all of them.
std::vector<Variable> record(std::string_view op, std::vector<Tensor> ys,
                             const std::vector<Variable>& inputs,
                             std::function<void(const std::vector<Tensor>& dys)> backward);

}  // namespace clip
