// Tape, Variable, ParameterList, GradientReducer, recompute, AdamW's bookkeeping.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "autograd/gradient_reducer.h"
#include "autograd/ops.h"
#include "autograd/optimizer.h"
#include "engine/communicator.h"
#include "tests/doubles.h"
#include "tests/op_cases.h"

namespace clip {
namespace {

Variable random_variable(const Shape& shape, uint64_t stream, bool requires_grad = true) {
  return Variable(random_tensor(shape, DType::kF64, cpu_backend(), 9, stream), requires_grad);
}

Tensor ones(const Shape& shape) {
  return Tensor::from<double>(cpu_backend(), shape,
                              std::vector<double>(static_cast<size_t>(shape.numel()), 1.0));
}

TEST(Tape, WithoutOneNothingIsRecorded) {
  const Variable x = random_variable({3, 4}, 0);
  EXPECT_FALSE(l2_normalize(x).requires_grad());
}

TEST(Tape, RecordsNothingWhileItIsPaused) {
  Tape tape;
  const Variable x = random_variable({3, 4}, 0);
  {
    TapePause pause;
    EXPECT_FALSE(l2_normalize(x).requires_grad());
  }
  EXPECT_TRUE(l2_normalize(x).requires_grad());
}

TEST(Tape, AddsTheGradientsOfEveryUse) {
  const Variable x = random_variable({3, 4}, 0);
  const auto gradient = [&](int uses) {
    x.clear_gradient();
    Tape tape;
    std::vector<Variable> outputs;
    std::vector<Tensor> cotangents;
    for (int use = 0; use < uses; ++use) {
      outputs.push_back(l2_normalize(x));
      cotangents.push_back(random_tensor({3, 4}, DType::kF64, cpu_backend(), 1, 1));
    }
    tape.backward(outputs, cotangents);
    return x.grad().to_vector<double>();
  };
  const auto once = gradient(1), thrice = gradient(3);
  for (size_t i = 0; i < once.size(); ++i) EXPECT_NEAR(thrice[i], 3 * once[i], 1e-14);
}

TEST(Tape, AGradientThatTwoVariablesShareIsNotChangedForOneByTheOther) {
  // residual and x adopt one tensor; residual then gets another gradient added.
  const Variable residual = random_variable({5, 6}, 0), x = random_variable({5, 6}, 1);
  const Variable bias = random_variable({6}, 2), weight = random_variable({6}, 3);
  Tape tape;
  const Variable earlier = l2_normalize(residual);
  const ResidualNorm result = bias_residual_layer_norm(residual, x, bias, weight, bias);
  tape.backward({earlier, result.sum}, {ones({5, 6}), ones({5, 6})});
  for (double value : x.grad().to_vector<double>()) EXPECT_EQ(value, 1.0);
  bool differs = false;
  for (double value : residual.grad().to_vector<double>()) differs = differs || value != 1.0;
  EXPECT_TRUE(differs);
}

/// An op's name as an observer hears it, with its pass and what it costs.
struct Heard {
  explicit Heard(const OpRun& run)
      : name(concat(run.name, run.pass == Pass::kBackward ? " backward" : "")), cost(run.cost()) {}
  std::string name;
  OpCost cost;
};

std::vector<std::string> names_of(const std::vector<Heard>& heard) {
  std::vector<std::string> names;
  for (const Heard& one : heard) names.push_back(one.name);
  return names;
}

/// What is heard of `op` and of its way back from gradients of ones.
std::vector<Heard> heard_of(const std::function<Variable()>& op) {
  std::vector<Heard> heard;
  const OpObserver observer([&](const OpRun& run) { heard.emplace_back(run); });
  Tape tape;
  const Variable y = op();
  tape.backward({y}, {ones(y.shape())});
  return heard;
}

TEST(OpObserver, HearsOfEveryOpForwardAndBackward) {
  const Variable x = random_variable({2, 3}, 0);
  std::vector<Heard> outer;
  const OpObserver forgotten([&](const OpRun& run) { outer.emplace_back(run); });
  EXPECT_EQ(names_of(heard_of([&] { return l2_normalize(slice_rows(x, 0, 1)); })),
            (std::vector<std::string>{"slice_rows", "l2_normalize", "l2_normalize backward",
                                      "slice_rows backward"}));
  EXPECT_TRUE(outer.empty());
  slice_rows(x, 0, 1);
  tell_observer("loader");
  EXPECT_EQ(names_of(outer), (std::vector<std::string>{"slice_rows", "loader"}));
}

TEST(OpObserver, HearsOfTheOpsOfARecomputedBlockTwice) {
  const Variable x = random_variable({2, 3}, 0), weight = random_variable({4, 3}, 1);
  const auto heard = heard_of([&] {
    return recompute([&](const auto& in) { return std::vector{linear(in[0], weight)}; }, {x})[0];
  });
  EXPECT_EQ(names_of(heard), (std::vector<std::string>{"linear", "recompute", "linear",
                                                       "linear backward", "recompute backward"}));
  EXPECT_EQ(heard[2].cost.flop, heard[0].cost.flop);
  EXPECT_EQ(heard[1].cost.bytes, 0);  // nothing of its own
  EXPECT_EQ(heard[4].cost.bytes, 0);
}

TEST(OpCost, OfALinearHasAProductForwardAndOneForEachGradientThatIsWanted) {
  constexpr int64_t kR = 5, kK = 3, kM = 7;
  for (const bool x_wants : {true, false})
    for (const bool weight_wants : {true, false}) {
      const Variable x = random_variable({kR, kK}, 0, x_wants),
                     weight = random_variable({kM, kK}, 1, weight_wants),
                     bias = random_variable({kM}, 2);
      const auto heard = heard_of([&] { return linear(x, weight, bias); });
      ASSERT_EQ(heard.size(), 2u);
      EXPECT_EQ(heard[0].cost.flop, 2 * kR * kK * kM);
      EXPECT_EQ(heard[1].cost.flop, 2 * (x_wants + weight_wants) * kR * kK * kM);
      const int64_t inputs = kR * kK + kM * kK + kM, y = kR * kM;
      EXPECT_EQ(heard[0].cost.bytes, 8 * (inputs + y));
      EXPECT_EQ(heard[1].cost.bytes,
                8 * (inputs + x_wants * kR * kK + weight_wants * kM * kK + kM + y));
    }
}

TEST(OpCost, OfAttentionCountsTheKeysThatEachQuerySees) {
  const Tensor offsets = Tensor::from<int32_t>(cpu_backend(), {3}, {0, 2, 5});
  const Sequences sequences{offsets, offsets, 3, 3};
  const Variable qkv = random_variable({5, 12}, 0);  // C = 4
  const auto flop = [&](Causal causal) {
    const auto heard =
        heard_of([&] { return attention(qkv, sequences, {.heads = 2, .causal = causal}); });
    return std::pair(heard[0].cost.flop, heard[1].cost.flop);
  };
  // Pairs times C, two FLOP each, of two products forward and five backward.
  EXPECT_EQ(flop(Causal::kNo), std::pair(2.0 * 2 * (4 + 9) * 4, 2.0 * 5 * (4 + 9) * 4));
  EXPECT_EQ(flop(Causal::kYes), std::pair(2.0 * 2 * (3 + 6) * 4, 2.0 * 5 * (3 + 6) * 4));
}

TEST(OpCost, OfRowsIsNotThatOfTheWholeMatrix) {
  const Variable x = random_variable({100, 3}, 0);
  const auto gathered = heard_of([&] {
    return gather_rows(x, Tensor::from<int32_t>(cpu_backend(), {2}, {9, 90}));
  });
  EXPECT_EQ(gathered[0].cost.bytes, 8 * 2 * 2 * 3);
  EXPECT_EQ(gathered[0].cost.flop, 0);
  EXPECT_EQ(heard_of([&] { return slice_rows(x, 1, 3); })[0].cost.bytes, 0);  // a view
}

TEST(OpCost, OfTheResidualNormIsFourReadsAndWritesOfTheStreamEachWay) {
  const Variable residual = random_variable({50, 6}, 0), x = random_variable({50, 6}, 1),
                 weight = random_variable({6}, 2);
  std::vector<Heard> heard;
  const OpObserver observer([&](const OpRun& run) { heard.emplace_back(run); });
  Tape tape;
  const ResidualNorm y = bias_residual_layer_norm(residual, x, weight, weight, weight);
  tape.backward({y.sum, y.normed}, {ones({50, 6}), ones({50, 6})});
  // residual, x -> sum, y; then dsum, dy, sum -> one gradient for both. Besides, rows of width 6.
  EXPECT_EQ(heard[0].cost.bytes, 8 * (4 * 50 * 6 + 3 * 6));
  EXPECT_EQ(heard[1].cost.bytes, 8 * (5 * 50 * 6 + 6 * 6));
}

TEST(Tape, RejectsALossThatIsNoScalar) {
  Tape tape;
  const Variable x = random_variable({3, 4}, 0);
  EXPECT_THROW(tape.backward(l2_normalize(x)), Error);
}

TEST(Tape, ALossThatDependsOnNothingIsAnErrorNotACrash) {
  Tape tape;
  const Variable constant(Tensor::from<double>(cpu_backend(), {}, {1.0}));
  EXPECT_THROW(tape.backward(constant), Error);
}

TEST(Recompute, GivesTheSameBitsAsThePlainFunction) {
  const Variable x = random_variable({33, 8}, 0), weight = random_variable({16, 8}, 1),
                 bias = random_variable({16}, 2);
  const auto block = [&](const std::vector<Variable>& in) {
    return std::vector{bias_gelu(linear(in[0], weight), bias, Gelu::kQuick)};
  };
  const auto run = [&](bool again) {
    for (const Variable& variable : {x, weight, bias}) variable.clear_gradient();
    Tape tape;
    const Variable y = again ? recompute(block, {x})[0] : block({x})[0];
    tape.backward({y}, {random_tensor({33, 16}, DType::kF64, cpu_backend(), 4, 4)});
    return std::vector{y.value().to_vector<double>(), x.grad().to_vector<double>(),
                       weight.grad().to_vector<double>(), bias.grad().to_vector<double>()};
  };
  EXPECT_EQ(run(false), run(true));
}

TEST(Recompute, ReachesParametersThoughNoInputWantsAGradient) {
  const Variable x = random_variable({3, 8}, 0, false), weight = random_variable({4, 8}, 1);
  Tape tape;
  const Variable y = recompute(
      [&](const std::vector<Variable>& in) { return std::vector{linear(in[0], weight)}; }, {x})[0];
  tape.backward({y}, {ones({3, 4})});
  EXPECT_TRUE(weight.has_grad());
  EXPECT_FALSE(x.has_grad());
}

TEST(Tape, SaysWhenALeafsGradientIsComplete) {
  const Variable x = random_variable({3, 8}, 0, false), early = random_variable({8, 8}, 1),
                 late = random_variable({8, 8}, 2);
  Tape tape;
  const Variable hidden = linear(linear(x, early), late);
  // `early` is used once more, inside a recomputation that comes later.
  const Variable y =
      recompute([&](const std::vector<Variable>& in) { return std::vector{linear(in[0], early)}; },
                {hidden})[0];
  std::vector<std::string> order;
  tape.backward({y}, {ones({3, 8})}, [&](const Variable& leaf) {
    order.push_back(leaf.is_same(early) ? "early" : "late");
  });
  EXPECT_EQ(order, (std::vector<std::string>{"late", "early"}));
}

/// Of how many leaves a forward of shape [3, 8] and its backward say that the gradient is complete.
template <class Forward>
int64_t leaves_completed(const Forward& forward) {
  Tape tape;
  const Variable y = forward();
  int64_t completed = 0;
  tape.backward({y}, {ones({3, 8})}, [&](const Variable&) { ++completed; });
  return completed;
}

TEST(Tape, ForgetsTheUsesOfAForwardThatHadNoBackward) {
  const Variable x = random_variable({3, 8}, 0, false), weight = random_variable({8, 8}, 1);
  {
    Tape tape;
    linear(x, weight);
  }
  EXPECT_EQ(leaves_completed([&] { return linear(x, weight); }), 1);
}

TEST(Tape, ForgetsTheUsesOfABackwardThatThrows) {
  const Variable x = random_variable({3, 8}, 0, false), weight = random_variable({8, 8}, 1);
  {
    Tape tape;
    const Variable y = record("refuse", ones({3, 8}), {linear(x, weight), weight},
                              [](const Tensor&) { throw Error("no memory"); });
    EXPECT_THROW(tape.backward({y}, {ones({3, 8})}), Error);
  }
  EXPECT_EQ(leaves_completed([&] { return linear(x, weight); }), 1);
}

TEST(Tape, ForgetsTheUsesOfABackwardWhoseListenerThrows) {
  const Variable x = random_variable({3, 8}, 0, false), weight = random_variable({8, 8}, 1),
                 bias = random_variable({8}, 2);
  {
    Tape tape;
    const Variable y = linear(x, weight, bias);
    const auto refuse = [](const Variable&) { throw Error("the ranks are gone"); };
    EXPECT_THROW(tape.backward({y}, {ones({3, 8})}, refuse), Error);
  }
  EXPECT_EQ(leaves_completed([&] { return linear(x, weight, bias); }), 2);
}

struct TwoParameters {
  TwoParameters() {
    list.add("matrix", matrix);
    list.add("vector", vector);
    list.allocate(cpu_backend(), DType::kF64);
    for (const Parameter& parameter : list.parameters()) {
      Tensor value = parameter.variable.value();
      cpu_backend().copy(value, random_tensor(value.shape(), DType::kF64, cpu_backend(), 3,
                                              static_cast<uint64_t>(value.rank())));
    }
  }
  /// Puts a gradient of `value` everywhere.
  void set_gradients(double value) {
    for (const Variable& variable : {matrix, vector})
      variable.gradient_slot().gradient.copy_from_host(
          std::vector<double>(static_cast<size_t>(variable.shape().numel()), value).data());
  }

  Variable matrix = Variable::parameter({3, 5}), vector = Variable::parameter({7});
  ParameterList list;
};

TEST(ParameterList, LiesInTheOrderInWhichBackwardFinishes) {
  TwoParameters model;
  EXPECT_EQ(model.list.parameters()[1].offset, 0);
  EXPECT_EQ(model.list.parameters()[0].offset, kParameterBlock);
  EXPECT_EQ(model.list.values().numel(), 2 * kParameterBlock);
  EXPECT_EQ(model.list.count(), 22);
}

TEST(ParameterList, RefusesANameTwice) {
  ParameterList list;
  list.add("a", Variable::parameter({1}));
  EXPECT_THROW(list.add("a", Variable::parameter({1})), Error);
}

TEST(ParameterList, AParameterThatBackwardDidNotReachHasGradientZero) {
  TwoParameters model;
  model.list.allocate_training_state();
  model.set_gradients(2.0);
  model.list.clear_gradients();
  model.list.settle_gradients();
  for (double value : model.list.gradients().to_vector<double>()) EXPECT_EQ(value, 0.0);
}

TEST(ParameterList, WithBF16ComputesWithARoundedCopyAndKeepsGradientsInF32) {
  const Variable matrix = Variable::parameter({3, 5}), scalar = Variable::parameter({});
  ParameterList list;
  list.add("matrix", matrix);
  list.add("scalar", scalar);
  list.allocate(cpu_backend(), DType::kBF16);
  list.allocate_training_state();
  list.values().copy_from_host(
      std::vector<float>(static_cast<size_t>(list.values().numel()), 1.0001f).data());
  list.round_values();
  EXPECT_EQ(matrix.dtype(), DType::kBF16);
  EXPECT_EQ(matrix.gradient_slot().gradient.dtype(), DType::kF32);
  EXPECT_EQ(scalar.dtype(), DType::kF32);
  EXPECT_EQ(scalar.value().item(), 1.0001f);
  for (const double value : to_doubles(matrix.value())) EXPECT_EQ(value, 1.0);
}

/// Sums of one rank that are on their way until wait(): what they are of must not change before.
class SumsOnTheirWay final : public Communicator {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  void all_gather(Tensor&, const Tensor&) override {}
  void all_reduce_sum(Tensor& x) override { started_.emplace_back(x, x.to_vector<double>()); }
  void broadcast(Tensor&, int64_t) override {}
  void barrier() override {}
  void wait() override {
    for (const auto& [range, at_start] : started_) EXPECT_EQ(range.to_vector<double>(), at_start);
    arrived_ += started_.size();
    started_.clear();
  }
  size_t started() const { return started_.size(); }  ///< still on their way
  size_t arrived() const { return arrived_; }         ///< by wait()

 private:
  size_t arrived_ = 0;
  std::vector<std::pair<Tensor, std::vector<double>>> started_;
};

TEST(GradientReducer, StartsTheSumOfARangeAsSoonAsItsParametersAreDone) {
  TwoParameters model;
  model.list.allocate_training_state();
  SumsOnTheirWay comm;
  GradientReducer reducer(model.list, comm, kParameterBlock);
  model.set_gradients(2.0);
  const Variable no_parameter(ones({3}), true);
  no_parameter.accept_gradient(ones({3}));
  reducer.ready(no_parameter);
  EXPECT_EQ(comm.started(), 0u);
  reducer.ready(model.vector);  // the flat buffer's first
  EXPECT_EQ(comm.started(), 1u);
  reducer.finish();
  EXPECT_EQ(comm.started(), 0u);
  EXPECT_EQ(comm.arrived(), 2u);  // the matrix's range too
}

TEST(GradientReducer, AParameterThatBackwardDidNotReachIsZeroBeforeItsSumStarts) {
  TwoParameters model;
  model.list.allocate_training_state();
  model.set_gradients(2.0);
  model.list.clear_gradients();  // the flat buffer still holds the step before
  SumsOnTheirWay comm;
  GradientReducer reducer(model.list, comm, kParameterBlock);
  const Variable x(ones({4, 5}));
  Tape tape;
  slice_rows(model.vector, 0, 2);  // nothing comes of it
  tape.backward({linear(x, model.matrix)}, {ones({4, 3})},
                [&](const Variable& leaf) { reducer.ready(leaf); });
  reducer.finish();
  EXPECT_EQ(comm.started(), 0u);
  EXPECT_EQ(comm.arrived(), 2u);
  for (const double value : model.vector.grad().to_vector<double>()) EXPECT_EQ(value, 0.0);
}

TEST(AdamW, DecaysMatricesAlone) {
  TwoParameters model;
  const auto matrix = model.matrix.value().to_vector<double>(),
             vector = model.vector.value().to_vector<double>();
  AdamW optimizer(model.list, {.weight_decay = 0.5});
  model.set_gradients(0.0);
  optimizer.step(0.1);
  const auto decayed = model.matrix.value().to_vector<double>();
  for (size_t i = 0; i < matrix.size(); ++i) EXPECT_NEAR(decayed[i], 0.95 * matrix[i], 1e-15);
  EXPECT_EQ(model.vector.value().to_vector<double>(), vector);
}

TEST(AdamW, SkipsAStepWhoseNormIsNotFiniteAndSaysSo) {
  TwoParameters model;
  AdamW optimizer(model.list, {});
  model.set_gradients(std::numeric_limits<double>::quiet_NaN());
  const auto before = model.list.values().to_vector<double>();
  EXPECT_TRUE(std::isnan(optimizer.step(0.1).item()));
  EXPECT_EQ(optimizer.steps_skipped(), 1);
  EXPECT_EQ(model.list.values().to_vector<double>(), before);
  EXPECT_EQ(optimizer.steps_done(), 0);
  model.set_gradients(1.0);
  EXPECT_NEAR(optimizer.step(0.1).item(), 22.0, 1e-12);
  EXPECT_EQ(optimizer.steps_done(), 1);
  EXPECT_EQ(optimizer.steps_skipped(), 1);
}

TEST(LearningRate, WarmsUpLinearlyAndEndsInHalfACosine) {
  const LearningRate lr{.lr = 2.0, .warmup_steps = 4, .total_steps = 12};
  EXPECT_DOUBLE_EQ(lr.at(0), 0.5);
  EXPECT_DOUBLE_EQ(lr.at(3), 2.0);
  EXPECT_DOUBLE_EQ(lr.at(4), 2.0);
  EXPECT_NEAR(lr.at(8), 1.0, 1e-15);
  EXPECT_NEAR(lr.at(12), 0.0, 1e-15);
  EXPECT_DOUBLE_EQ((LearningRate{.lr = 2.0, .schedule = LearningRate::Schedule::kConstant}.at(100)),
                   2.0);
}

}  // namespace
}  // namespace clip
