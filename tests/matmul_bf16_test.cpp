// Products of BF16 factors on the CPU against F64 products of the same numbers, with and without the
// processor's instructions for them.
#include <cstdlib>
#include <filesystem>

#include "tests/kernel_checks.h"
#include "tests/op_cases.h"
#include "tests/run_command.h"
#include "tests/scratch_folder.h"

namespace clip {
namespace {

struct Product {
  int64_t m, n, k;
  Transpose transpose_a, transpose_b;
  Accumulate accumulate = Accumulate::kNo;
  double alpha = 1;
};

std::string describe(const Product& p) {
  return concat("m ", p.m, " n ", p.n, " k ", p.k, " transposes ", static_cast<int>(p.transpose_a),
                static_cast<int>(p.transpose_b), " accumulate ", static_cast<int>(p.accumulate),
                " alpha ", p.alpha);
}

Tensor operand(int64_t rows, int64_t columns, Transpose transpose, uint64_t stream) {
  const Shape shape = transpose == Transpose::kNo ? Shape{rows, columns} : Shape{columns, rows};
  return random_tensor(shape, DType::kBF16, cpu_backend(), 1, stream);
}

/// The start of c: numbers to be added to, or NaN, which must not be read.
Tensor start_of(const Product& p, DType dtype) {
  if (p.accumulate == Accumulate::kYes)
    return random_tensor({p.m, p.n}, dtype, cpu_backend(), 1, 3);
  const Doubles unread(static_cast<size_t>(p.m * p.n), std::nan(""));
  return Tensor::from(cpu_backend(), {p.m, p.n}, unread).as_dtype(dtype);
}

Tensor multiply(const Product& p, Tensor c, const Tensor& a, const Tensor& b) {
  cpu_backend().matmul(c, a, p.transpose_a, b, p.transpose_b,
                       {.alpha = p.alpha, .accumulate = p.accumulate});
  return c;
}

Tensor magnitudes(const Tensor& x) {
  Doubles values = to_doubles(x);
  for (double& value : values) value = std::abs(value);
  return Tensor::from(cpu_backend(), x.shape(), values);
}

/// |c - exact| <= 1e-6 of the terms' magnitudes, as F32 products are held to, and where c is BF16 one
/// rounding of 2^-8 more.
void expect_product(const Product& p, DType dtype) {
  SCOPED_TRACE(concat(describe(p), " into ", dtype));
  const Tensor a = operand(p.m, p.k, p.transpose_a, 1), b = operand(p.k, p.n, p.transpose_b, 2);
  const Tensor start = start_of(p, dtype);
  const Doubles actual = to_doubles(multiply(p, start.clone(), a, b));
  const Doubles exact = to_doubles(
      multiply(p, start.as_dtype(DType::kF64), a.as_dtype(DType::kF64), b.as_dtype(DType::kF64)));
  Product of_magnitudes = p;
  of_magnitudes.alpha = std::abs(p.alpha);
  const Doubles sizes =
      to_doubles(multiply(of_magnitudes, magnitudes(start), magnitudes(a), magnitudes(b)));
  for (size_t i = 0; i < exact.size(); ++i) {
    const double rounding = dtype == DType::kBF16 ? 0x1p-8 * std::abs(exact[i]) : 0;
    ASSERT_TRUE(std::abs(actual[i] - exact[i]) <= 1e-6 * sizes[i] + rounding)
        << "element " << i << " is " << actual[i] << ", expected " << exact[i];
  }
}

std::vector<Product> products() {
  std::vector<Product> list;
  for (const Transpose ta : {Transpose::kNo, Transpose::kYes}) {
    for (const Transpose tb : {Transpose::kNo, Transpose::kYes}) {
      for (const int64_t m : {1, 31, 200})
        for (const int64_t n : {1, 33})
          for (const int64_t k : {1, 31, 64, 600}) list.push_back({m, n, k, ta, tb});
      for (const Accumulate to : {Accumulate::kNo, Accumulate::kYes}) {
        list.push_back({33, 31, 70, ta, tb, to});
        list.push_back({33, 31, 70, ta, tb, to, -0.5});
        list.push_back({1, 65, 1, ta, tb, to});
        list.push_back({1700, 40, 33, ta, tb, to});   // blocks of whole rows
        list.push_back({1100, 600, 40, ta, tb, to});  // blocks in both directions
        list.push_back({31, 33, 4099, ta, tb, to});   // a weight's gradient, in parts of the rows
        list.push_back({3, 5, 0, ta, tb, to});
      }
    }
  }
  return list;
}

TEST(MatmulBf16, AgreesWithF64InEveryShape) {
  for (const Product& p : products())
    for (const DType dtype : {DType::kBF16, DType::kF32}) expect_product(p, dtype);
}

TEST(MatmulBf16, RoundsAnF32FactorFirst) {
  const Product p{33, 31, 70, Transpose::kNo, Transpose::kYes};
  const Tensor a = random_tensor({33, 70}, DType::kF32, cpu_backend(), 1, 5);
  const Tensor b = operand(70, 31, Transpose::kYes, 2), start = start_of(p, DType::kF32);
  EXPECT_EQ(to_doubles(multiply(p, start.clone(), a, b)),
            to_doubles(multiply(p, start.clone(), a.as_dtype(DType::kBF16), b)));
}

TEST(MatmulBf16, GivesTheSameBitsForAnyThreadCount) {
  for (const Transpose ta : {Transpose::kNo, Transpose::kYes}) {
    for (const Transpose tb : {Transpose::kNo, Transpose::kYes}) {
      for (const Product& p : {Product{1, 64, 4096, ta, tb}, Product{64, 1, 4096, ta, tb},
                               Product{64, 200, 1000, ta, tb}, Product{33, 31, 4096, ta, tb},
                               Product{96, 96, 16640, ta, tb}, Product{2000, 40, 70, ta, tb}}) {
        SCOPED_TRACE(describe(p));
        const Tensor a = operand(p.m, p.k, ta, 1), b = operand(p.k, p.n, tb, 2);
        expect_same_bits_for_any_thread_count([&] {
          return std::vector<Tensor>{multiply(p, start_of(p, DType::kBF16), a, b),
                                     multiply(p, start_of(p, DType::kF32), a, b)};
        });
      }
    }
  }
}

TEST(FastDType, IsBF16OnTheCpuWhereTheProcessorHasInstructionsForItThatAreNotForbidden) {
  const bool has = file_bytes("/proc/cpuinfo").find("avx512_bf16") != std::string::npos;
  const bool forbidden = std::getenv("ONEDNN_MAX_CPU_ISA") != nullptr;
  EXPECT_EQ(cpu_backend().fast_dtype(), has && !forbidden ? DType::kBF16 : DType::kF32);
}

TEST(WithoutBf16Instructions, EveryOtherTestOfThisFilePasses) {
  const CommandResult result = run_command(
      concat("ONEDNN_MAX_CPU_ISA=AVX2 '", std::filesystem::read_symlink("/proc/self/exe").string(),
             "' --gtest_filter=MatmulBf16.*:FastDType.*"));
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_NE(result.output.find("4 tests"), std::string::npos) << result.output;
}

}  // namespace
}  // namespace clip
