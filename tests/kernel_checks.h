// What the tests of the CPU kernels share: random inputs, outputs that must be written or added to,
// comparison with a plain F64 computation, and runs with several numbers of threads.
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "engine/backend.h"
#include "tests/doubles.h"

namespace clip {

using Doubles = std::vector<double>;

/// Ragged sizes: a row less and a row more than vectors and segments of rows hold.
inline const std::vector<int64_t> kRows = {1, 31, 33, 300, 600};
inline const std::vector<int64_t> kWidths = {1, 7, 33, 640};

/// Calls check(zero of type T, rows, width) for F32 and F64 and all ragged sizes.
template <class Check>
void for_ragged_sizes(const Check& check) {
  for (const int64_t rows : kRows) {
    for (const int64_t width : kWidths) {
      SCOPED_TRACE(concat("[", rows, ", ", width, "]"));
      check(float{}, rows, width);
      check(double{}, rows, width);
    }
  }
}

/// Uniform in [-2, 2], exact in F32, so that F32 and F64 kernels see the same numbers.
inline Doubles random_values(int64_t count, unsigned seed, double low = -2, double high = 2) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform(low, high);
  Doubles values(static_cast<size_t>(count));
  for (double& value : values) value = static_cast<double>(static_cast<float>(uniform(generator)));
  return values;
}

template <class T>
Tensor tensor_of(const Shape& shape, const Doubles& values) {
  return Tensor::from(cpu_backend(), shape, std::vector<T>(values.begin(), values.end()));
}

inline Tensor ints(const std::vector<int32_t>& values) {
  return Tensor::from(cpu_backend(), {static_cast<int64_t>(values.size())}, values);
}

/// |actual - expected| <= tolerance (1 + |expected|) for every element; a NaN fails.
inline void expect_near(const Tensor& actual, const Doubles& expected, double tolerance,
                        const char* what) {
  const Doubles values = to_doubles(actual);
  ASSERT_EQ(values.size(), expected.size()) << what;
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_TRUE(std::fabs(values[i] - expected[i]) <= tolerance * (1 + std::fabs(expected[i])))
        << what << "[" << i << "] is " << values[i] << ", expected " << expected[i];
  }
}

/// An output to be written (filled with NaN before) or added to.
struct Output {
  Tensor tensor;
  Doubles before;
  Accumulate to;

  void expect(const Doubles& gradient, double tolerance, const char* what) const {
    Doubles expected = gradient;
    if (to == Accumulate::kYes) {
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
    }
    expect_near(tensor, expected, tolerance, what);
  }
};

template <class T>
Output output(const Shape& shape, Accumulate to = Accumulate::kNo) {
  const int64_t count = shape.numel();
  const Doubles before = to == Accumulate::kYes ? random_values(count, 99)
                                                : Doubles(static_cast<size_t>(count),
                                                          std::numeric_limits<double>::quiet_NaN());
  return {tensor_of<T>(shape, before), before, to};
}

/// One rounding error of T, times a factor.
template <class T>
double roundings(double factor) {
  return factor * static_cast<double>(std::numeric_limits<T>::epsilon());
}

/// run() returns the tensors it computed; they must hold the same bits with one thread and with
/// more.
template <class Run>
void expect_same_bits_for_any_thread_count(const Run& run) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const std::vector<Tensor> alone = run();
  for (const int threads : {2, 3}) {
    omp_set_num_threads(threads);
    int team = 0;
#pragma omp parallel
    {
#pragma omp single
      team = omp_get_num_threads();
    }
    EXPECT_EQ(team, threads) << "OpenMP gave a smaller team: the comparison would show nothing";
    const std::vector<Tensor> shared = run();
    for (size_t i = 0; i < alone.size(); ++i) {
      EXPECT_EQ(std::memcmp(alone[i].raw(), shared[i].raw(), static_cast<size_t>(alone[i].bytes())),
                0)
          << "output " << i << " differs with " << threads << " threads";
    }
  }
  omp_set_num_threads(before);
}

}  // namespace clip
