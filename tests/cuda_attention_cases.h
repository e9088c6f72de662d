// What the tests of the GPU's attention share: cases, and runs of one on any backend.
#pragma once

#include <cuda_bf16.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "cuda/cuda_backend.h"
#include "engine/random.h"

namespace clip {

struct AttentionCase {
  std::vector<int32_t> queries, keys;  ///< per sequence
  int64_t heads, head_size;
  Causal causal = Causal::kNo;
  Accumulate accumulate = Accumulate::kNo;
  int64_t margin = 8;     ///< columns before and after those of q, k, v, which nobody may touch
  double score_size = 1;  ///< standard deviation of the scaled scores
};

inline AttentionCase self_attention(const std::vector<int32_t>& counts, int64_t heads,
                                    int64_t head_size, Causal causal) {
  return {counts, counts, heads, head_size, causal};
}

inline std::string describe(const AttentionCase& c) {
  std::string text =
      concat("heads ", c.heads, " of ", c.head_size, ", causal ", c.causal == Causal::kYes,
             ", accumulate ", c.accumulate == Accumulate::kYes, ", margin ", c.margin, ", queries");
  for (int32_t count : c.queries) text += concat(" ", count);
  text += ", keys";
  for (int32_t count : c.keys) text += concat(" ", count);
  return text;
}

/// Stored in T's own margin columns.
inline constexpr double kUntouched = 1232;

/// Numbers that T holds exactly, so that every backend computes from the same ones.
using Doubles = std::vector<double>;

template <class T>
double rounded_to(double value) {
  return static_cast<double>(static_cast<float>(T(static_cast<float>(value))));
}

template <class T>
Doubles random_numbers(int64_t count, double size, const char* name) {
  Random random(7, random_stream(name));
  Doubles values(static_cast<size_t>(count));
  for (double& value : values) value = rounded_to<T>(size * random.normal());
  return values;
}

template <class T>
Tensor to_device(Backend& backend, const Shape& shape, const Doubles& values) {
  std::vector<T> stored;
  for (double value : values) stored.push_back(static_cast<T>(static_cast<float>(value)));
  return Tensor::from(backend, shape, stored);
}
template <>
inline Tensor to_device<double>(Backend& backend, const Shape& shape, const Doubles& values) {
  return Tensor::from(backend, shape, values);
}

template <class T>
Doubles to_host(const Tensor& tensor) {
  Doubles values;
  for (T value : tensor.to_vector<T>()) {
    if constexpr (std::is_same_v<T, double>) {
      values.push_back(value);
    } else {
      values.push_back(static_cast<double>(static_cast<float>(value)));
    }
  }
  return values;
}

template <class T>
Columns columns_on(Backend& backend, const Doubles& values, int64_t width, int64_t margin) {
  const int64_t rows = static_cast<int64_t>(values.size()) / width, full = width + 2 * margin;
  Doubles wide(static_cast<size_t>(rows * full), kUntouched);
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(values.begin() + r * width, width, wide.begin() + r * full + margin);
  }
  return {to_device<T>(backend, {rows, full}, wide), margin, width};
}

/// The columns' values; those around them must be as they were.
template <class T>
Doubles columns_from(const Columns& columns) {
  const Doubles wide = to_host<T>(columns.matrix);
  const int64_t full = columns.matrix.width();
  Doubles values;
  for (size_t i = 0; i < wide.size(); ++i) {
    const int64_t column = static_cast<int64_t>(i) % full - columns.first;
    if (column >= 0 && column < columns.count) {
      values.push_back(wide[i]);
    } else if (wide[i] != kUntouched) {
      ADD_FAILURE() << "element " << i << " beside the columns became " << wide[i];
    }
  }
  return values;
}

struct AttentionResults {
  Doubles y, log_sum_exp, dq, dk, dv;
};

/// Inputs are rounded to Input, the backend computes in T with log-sum-exps in Statistics.
template <class Input, class T, class Statistics>
AttentionResults run_attention(Backend& backend, const AttentionCase& c) {
  const auto offsets = [&](const std::vector<int32_t>& counts) {
    std::vector<int32_t> sums(counts.size() + 1, 0);
    std::partial_sum(counts.begin(), counts.end(), sums.begin() + 1);
    return Tensor::from(backend, {static_cast<int64_t>(sums.size())}, sums);
  };
  const int64_t width = c.heads * c.head_size;
  const int64_t rq = std::reduce(c.queries.begin(), c.queries.end());
  const int64_t rk = std::reduce(c.keys.begin(), c.keys.end());
  const auto inputs = [&](int64_t rows, double size, const char* name) {
    return columns_on<T>(backend, random_numbers<Input>(rows * width, size, name), width, c.margin);
  };
  const auto gradients = [&](int64_t rows, const char* name) {
    Doubles before = random_numbers<Input>(rows * width, 1, name);
    if (c.accumulate == Accumulate::kNo) std::fill(before.begin(), before.end(), std::nan(""));
    return columns_on<T>(backend, before, width, c.margin);
  };
  const Sequences sequences{offsets(c.queries), offsets(c.keys),
                            *std::max_element(c.queries.begin(), c.queries.end()),
                            *std::max_element(c.keys.begin(), c.keys.end())};
  const AttentionOptions options{c.heads, c.causal};
  const Columns q = inputs(rq, c.score_size, "q"), k = inputs(rk, 1, "k"), v = inputs(rk, 1, "v");
  Tensor y = Tensor::empty(backend, {rq, width}, kDTypeOf<T>);
  Tensor log_sum_exp = Tensor::empty(backend, {c.heads, rq}, kDTypeOf<Statistics>);
  backend.attention_forward(y, log_sum_exp, q, k, v, sequences, options);

  const Tensor dy = to_device<T>(backend, {rq, width}, random_numbers<Input>(rq * width, 1, "dy"));
  Columns dq = gradients(rq, "dq"), dk = gradients(rk, "dk"), dv = gradients(rk, "dv");
  backend.attention_backward(dq, dk, dv, dy, y, log_sum_exp, q, k, v, sequences, options,
                             c.accumulate, c.accumulate);
  return {to_host<T>(y), to_host<Statistics>(log_sum_exp), columns_from<T>(dq), columns_from<T>(dk),
          columns_from<T>(dv)};
}

}  // namespace clip
