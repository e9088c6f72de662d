// Matrix products, bias and column sums of the CPU against plain loops in double precision.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "engine/backend.h"
#include "engine/random.h"

namespace clip {
namespace {

template <class T>
std::vector<T> random_values(int64_t count, uint64_t seed) {
  Random random(seed, random_stream("matmul_test"));
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) value = static_cast<T>(random.uniform(-1, 1));
  return values;
}

struct Product {
  int64_t m, n, k;
  Transpose transpose_a = Transpose::kNo, transpose_b = Transpose::kNo;
  MatmulOptions options = {};
};

std::string describe(const Product& p) {
  return concat("m ", p.m, " n ", p.n, " k ", p.k, " transposes ", static_cast<int>(p.transpose_a),
                static_cast<int>(p.transpose_b), " alpha ", p.options.alpha, " accumulate ",
                static_cast<int>(p.options.accumulate));
}

template <class T>
Tensor operand(int64_t rows, int64_t columns, Transpose transpose, uint64_t seed) {
  const Shape shape = transpose == Transpose::kNo ? Shape{rows, columns} : Shape{columns, rows};
  return Tensor::from(cpu_backend(), shape, random_values<T>(rows * columns, seed));
}

template <class T>
std::vector<T> multiply(const Product& p, const std::vector<T>& start) {
  const Tensor a = operand<T>(p.m, p.k, p.transpose_a, 1);
  const Tensor b = operand<T>(p.k, p.n, p.transpose_b, 2);
  Tensor c = Tensor::from(cpu_backend(), {p.m, p.n}, start);
  cpu_backend().matmul(c, a, p.transpose_a, b, p.transpose_b, p.options);
  return c.to_vector<T>();
}

/// The operand as [rows, columns] of doubles, whichever way it is stored.
template <class T>
std::vector<double> plain(const std::vector<T>& matrix, int64_t rows, int64_t columns,
                          Transpose transpose) {
  std::vector<double> values(matrix.begin(), matrix.end());
  if (transpose == Transpose::kNo) return values;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      values[static_cast<size_t>(r * columns + c)] = matrix[static_cast<size_t>(c * rows + r)];
    }
  }
  return values;
}

/// Largest error of an element, in units of the sum of the absolute values of its terms.
template <class T>
double largest_error(const Product& p) {
  const auto a = plain(random_values<T>(p.m * p.k, 1), p.m, p.k, p.transpose_a);
  const auto b = plain(random_values<T>(p.k * p.n, 2), p.k, p.n, p.transpose_b);
  // NaN where nothing is added: whatever was there must not be read.
  const bool add = p.options.accumulate == Accumulate::kYes;
  const std::vector<T> start =
      add ? random_values<T>(p.m * p.n, 3)
          : std::vector<T>(static_cast<size_t>(p.m * p.n), static_cast<T>(std::nan("")));
  const std::vector<T> c = multiply(p, start);
  double largest = 0;
  std::vector<double> sums(static_cast<size_t>(p.n)), sizes(sums.size());
  for (int64_t i = 0; i < p.m; ++i) {
    for (size_t j = 0; j < sums.size(); ++j) {
      sums[j] = add ? static_cast<double>(start[static_cast<size_t>(i * p.n) + j]) : 0;
      sizes[j] = std::abs(sums[j]);
    }
    for (int64_t l = 0; l < p.k; ++l) {
      const double factor = p.options.alpha * a[static_cast<size_t>(i * p.k + l)];
      for (size_t j = 0; j < sums.size(); ++j) {
        const double term = factor * b[static_cast<size_t>(l * p.n) + j];
        sums[j] += term;
        sizes[j] += std::abs(term);
      }
    }
    for (size_t j = 0; j < sums.size(); ++j) {
      const double actual = static_cast<double>(c[static_cast<size_t>(i * p.n) + j]);
      if (!std::isfinite(actual)) return INFINITY;
      largest = std::max(largest, std::abs(actual - sums[j]) / std::max(sizes[j], 1e-300));
    }
  }
  return largest;
}

std::vector<Product> products() {
  std::vector<Product> list;
  const int64_t sizes[] = {1, 31, 33, 64, 200};
  for (int64_t m : sizes) {
    for (int64_t n : sizes) {
      for (int64_t k : sizes) {
        for (Transpose ta : {Transpose::kNo, Transpose::kYes}) {
          for (Transpose tb : {Transpose::kNo, Transpose::kYes}) list.push_back({m, n, k, ta, tb});
        }
      }
    }
  }
  list.push_back({50, 130, 600});   // several blocks in every direction, of F64
  list.push_back({1100, 600, 40});  // and of F32
  list.push_back({50, 130, 600, Transpose::kYes, Transpose::kYes, {.alpha = -0.5}});
  for (Accumulate accumulate : {Accumulate::kNo, Accumulate::kYes}) {
    list.push_back({33, 31, 64, Transpose::kNo, Transpose::kYes, {1.5, accumulate}});
    list.push_back({64, 200, 33, Transpose::kYes, Transpose::kNo, {-2.0, accumulate}});
    list.push_back({49, 129, 257, Transpose::kNo, Transpose::kNo, {1.0, accumulate}});
    list.push_back({31, 33, 0, Transpose::kNo, Transpose::kYes, {1.0, accumulate}});
    list.push_back({31, 33, 0, Transpose::kYes, Transpose::kNo, {1.0, accumulate}});
  }
  return list;
}

// Sums of up to 600 terms: rounding of each addition is half a unit in the last place of the
// partial sum (F32 6e-8, F64 1.1e-16), and such errors mostly cancel; 16 of them are allowed.
TEST(Matmul, AgreesWithPlainLoopsInF32) {
  for (const Product& p : products()) EXPECT_LE(largest_error<float>(p), 1e-6) << describe(p);
}

TEST(Matmul, AgreesWithPlainLoopsInF64) {
  for (const Product& p : products()) EXPECT_LE(largest_error<double>(p), 2e-15) << describe(p);
}

TEST(Matmul, AcceptsEmptyResults) {
  Backend& cpu = cpu_backend();
  const Tensor a = Tensor::zeros(cpu, {0, 7}, DType::kF32),
               b = Tensor::zeros(cpu, {5, 7}, DType::kF32);
  Tensor c = Tensor::zeros(cpu, {0, 5}, DType::kF32);
  EXPECT_NO_THROW(cpu.matmul(c, a, Transpose::kNo, b, Transpose::kYes, {}));
}

TEST(Matmul, RejectsOtherDTypes) {
  Backend& cpu = cpu_backend();
  const Tensor a = Tensor::zeros(cpu, {2, 2}, DType::kI32);
  Tensor c = Tensor::zeros(cpu, {2, 2}, DType::kI32);
  EXPECT_THROW(cpu.matmul(c, a, Transpose::kNo, a, Transpose::kNo, {}), Error);
}

/// Values of body() with each number of threads.
template <class Body>
auto with_thread_counts(std::initializer_list<int> counts, const Body& body) {
  const int threads = omp_get_max_threads();
  std::vector<decltype(body())> values;
  for (int count : counts) {
    omp_set_num_threads(count);
    values.push_back(body());
  }
  omp_set_num_threads(threads);
  return values;
}

template <class T>
void expect_equal_bits(const Product& p) {
  const std::vector<T> start(static_cast<size_t>(p.m * p.n), T(0.25));
  const auto values = with_thread_counts({1, 2, 8}, [&] { return multiply(p, start); });
  EXPECT_EQ(values[0], values[1]) << describe(p);
  EXPECT_EQ(values[0], values[2]) << describe(p);
}

// The shapes are those whose sums oneDNN, left alone, splits by the number of threads.
TEST(Matmul, GivesTheSameBitsForAnyThreadCount) {
  for (Transpose ta : {Transpose::kNo, Transpose::kYes}) {
    for (Transpose tb : {Transpose::kNo, Transpose::kYes}) {
      for (const Product& p : {Product{1, 64, 4096, ta, tb}, Product{64, 1, 4096, ta, tb},
                               Product{64, 200, 1000, ta, tb}, Product{33, 31, 4096, ta, tb},
                               Product{1030, 40, 70, ta, tb}}) {
        expect_equal_bits<float>(p);
        expect_equal_bits<double>(p);
      }
    }
  }
}

template <class T>
std::vector<T> add_bias(int64_t rows, int64_t width) {
  Tensor y = Tensor::from(cpu_backend(), {rows, width}, random_values<T>(rows * width, 4));
  cpu_backend().add_bias(y, Tensor::from(cpu_backend(), {width}, random_values<T>(width, 5)));
  return y.to_vector<T>();
}

template <class T>
void expect_bias_is_added(int64_t rows, int64_t width) {
  const std::vector<T> x = random_values<T>(rows * width, 4), bias = random_values<T>(width, 5);
  const std::vector<T> y = add_bias<T>(rows, width);
  for (size_t i = 0; i < y.size(); ++i) {
    ASSERT_EQ(y[i], x[i] + bias[i % static_cast<size_t>(width)]) << rows << " x " << width;
  }
}

TEST(AddBias, AddsOneValuePerColumn) {
  for (int64_t rows : {0, 1, 63, 64, 65, 300}) {
    for (int64_t width : {1, 31, 64}) {
      expect_bias_is_added<float>(rows, width);
      expect_bias_is_added<double>(rows, width);
    }
  }
}

template <class T>
std::vector<T> column_sums(int64_t rows, int64_t width, Accumulate accumulate) {
  const Tensor x = Tensor::from(cpu_backend(), {rows, width}, random_values<T>(rows * width, 6));
  Tensor sums = Tensor::from(cpu_backend(), {width}, random_values<T>(width, 7));
  cpu_backend().column_sums(sums, x, accumulate);
  return sums.to_vector<T>();
}

/// The stated order: rows of a segment one after the other, then the segments. Exact, hence EXPECT_EQ.
template <class T>
void expect_sums_in_order(int64_t rows, int64_t width, Accumulate accumulate) {
  const std::vector<T> x = random_values<T>(rows * width, 6), start = random_values<T>(width, 7);
  const std::vector<T> sums = column_sums<T>(rows, width, accumulate);
  for (int64_t c = 0; c < width; ++c) {
    T total = 0;
    for (int64_t first = 0; first < rows; first += kSegmentRows) {
      T segment = 0;
      for (int64_t r = first; r < std::min(rows, first + kSegmentRows); ++r) {
        segment += x[static_cast<size_t>(r * width + c)];
      }
      total += segment;
    }
    if (accumulate == Accumulate::kYes) total = start[static_cast<size_t>(c)] + total;
    ASSERT_EQ(sums[static_cast<size_t>(c)], total) << rows << " x " << width << ", column " << c;
  }
}

TEST(ColumnSums, AddRowsOfASegmentAndThenSegmentsInOrder) {
  for (int64_t rows : {0, 1, 31, 255, 256, 257, 1000}) {
    for (int64_t width : {1, 33, 200}) {
      for (Accumulate accumulate : {Accumulate::kNo, Accumulate::kYes}) {
        expect_sums_in_order<float>(rows, width, accumulate);
        expect_sums_in_order<double>(rows, width, accumulate);
      }
    }
  }
}

TEST(ColumnSums, GiveTheSameBitsForAnyThreadCount) {
  const auto values =
      with_thread_counts({1, 2, 8}, [] { return column_sums<float>(2000, 70, Accumulate::kYes); });
  EXPECT_EQ(values[0], values[1]);
  EXPECT_EQ(values[0], values[2]);
}

}  // namespace
}  // namespace clip
