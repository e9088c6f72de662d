// Products with weights that do not change, against the same products without that knowledge.
#include "autograd/ops.h"
#include "autograd/parameter_list.h"
#include "tests/kernel_checks.h"
#include "tests/op_cases.h"

namespace clip {
namespace {

/// A linear layer's weight [n, k] and bias, in a list.
struct Layer {
  Layer(int64_t n, int64_t k, DType dtype)
      : weight(Variable::parameter({n, k})), bias(Variable::parameter({n})) {
    list.add("weight", weight);
    list.add("bias", bias);
    list.allocate(cpu_backend(), dtype);
    cpu_backend().copy(list.values(),
                       random_tensor(list.values().shape(), DType::kF32, cpu_backend(), 1, 0));
    list.round_values();
  }
  Tensor operator()(const Tensor& x) const { return linear(Variable(x), weight, bias).value(); }
  Tensor projected(const Tensor& x) const { return project(Variable(x), weight, bias).value(); }

  Variable weight, bias;
  ParameterList list;
};

Tensor rows_of(int64_t rows, int64_t k, DType dtype) {
  return random_tensor({rows, k}, DType::kF32, cpu_backend(), 2, 0).as_dtype(dtype);
}

/// Both add the same k products of numbers around 1, in different orders, in F32; BF16 rounds once
/// more.
void expect_same_product(const Tensor& actual, const Tensor& expected, int64_t k) {
  const double rounding = actual.dtype() == DType::kBF16 ? 0x1p-7 : 0;
  const Doubles a = to_doubles(actual), e = to_doubles(expected);
  ASSERT_EQ(a.size(), e.size());
  for (size_t i = 0; i < a.size(); ++i)
    ASSERT_TRUE(std::abs(a[i] - e[i]) <= 1e-6 * static_cast<double>(k) + rounding * std::abs(e[i]))
        << "element " << i << " is " << a[i] << ", expected " << e[i];
}

class ConstantWeightsOf : public testing::TestWithParam<DType> {};

TEST_P(ConstantWeightsOf, GiveTheSameProductsAtEverySize) {
  for (const int64_t n : {1, 31, 192, 193, 600})
    for (const int64_t k : {1, 33, 200}) {
      const Layer layer(n, k, GetParam());
      for (const int64_t rows : {1, 7, 50, 128, 129, 300}) {
        SCOPED_TRACE(concat("rows ", rows, " n ", n, " k ", k));
        const Tensor x = rows_of(rows, k, GetParam());
        const Tensor expected = layer(x), projected = layer.projected(x);
        const ConstantWeights constant(layer.list);
        expect_same_product(layer(x), expected, k);
        expect_same_product(layer.projected(x), projected, k);
      }
    }
}

TEST_P(ConstantWeightsOf, ServeProductsWithSomeOfTheirRowsAsBefore) {
  const Layer layer(400, 64, GetParam());
  const Tensor x = rows_of(50, 64, GetParam());
  const ConstantWeights constant(layer.list);
  layer(x);
  for (const auto& [begin, end] : {std::pair{0, 200}, std::pair{200, 400}}) {
    const Variable part = slice_rows(layer.weight, begin, end);
    const Tensor y = linear(Variable(x), part, Variable()).value();
    const Variable copy(part.value().clone());
    EXPECT_EQ(to_doubles(y), to_doubles(linear(Variable(x), copy, Variable()).value()));
  }
}

TEST_P(ConstantWeightsOf, AreAddedToWhatIsThereAndScaledAsBefore) {
  const Layer layer(200, 64, GetParam());
  const Tensor x = rows_of(50, 64, GetParam()), weight = layer.weight.value(),
               start = random_tensor({50, 200}, DType::kF32, cpu_backend(), 3, 0);
  for (const MatmulOptions& options :
       {MatmulOptions{.accumulate = Accumulate::kYes}, MatmulOptions{.alpha = 0.5}}) {
    const auto product = [&] {
      Tensor c = start.clone();
      cpu_backend().matmul(c, x, Transpose::kNo, weight, Transpose::kYes, options);
      return to_doubles(c);
    };
    const Doubles expected = product();
    const ConstantWeights constant(layer.list);
    EXPECT_EQ(product(), expected);
  }
}

TEST_P(ConstantWeightsOf, MayChangeOnceTheyAreNoLongerConstant) {
  Layer layer(64, 64, GetParam());
  const Tensor x = rows_of(50, 64, GetParam());
  {
    const ConstantWeights constant(layer.list);
    layer(x);
  }
  cpu_backend().fill_zero(layer.list.values());
  layer.list.round_values();
  EXPECT_EQ(to_doubles(layer(x)), Doubles(static_cast<size_t>(50 * 64), 0.0));
}

TEST_P(ConstantWeightsOf, GiveTheSameBitsForAnyThreadCount) {
  const Layer layer(600, 300, GetParam());
  const ConstantWeights constant(layer.list);
  for (const int64_t rows : {1, 50, 1000}) {
    const Tensor x = rows_of(rows, 300, GetParam());
    expect_same_bits_for_any_thread_count([&] { return std::vector<Tensor>{layer(x)}; });
  }
}

INSTANTIATE_TEST_SUITE_P(Of, ConstantWeightsOf, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& parameter) {
                           return parameter.param == DType::kF32 ? "F32" : "BF16";
                         });

}  // namespace
}  // namespace clip
