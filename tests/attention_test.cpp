// Attention of the CPU against plain loops in double precision.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "engine/backend.h"
#include "engine/random.h"

namespace clip {
namespace {

constexpr double kSentinel = 1234.5;      // in every element that no kernel may touch
constexpr int64_t kLeft = 3, kRight = 5;  // columns before and after those of q, k, v

struct Case {
  std::vector<int32_t> queries, keys;  // per sequence
  int64_t heads, d;
  Causal causal = Causal::kNo;
  Accumulate accumulate = Accumulate::kNo;
  double score_size = 1;  // standard deviation of the scaled scores
};

std::string describe(const Case& c) {
  std::string text = concat("heads ", c.heads, " d ", c.d, " causal ", static_cast<int>(c.causal),
                            " accumulate ", static_cast<int>(c.accumulate), " queries");
  for (int32_t count : c.queries) text += concat(" ", count);
  return text;
}

std::vector<int32_t> offsets_of(const std::vector<int32_t>& counts) {
  std::vector<int32_t> offsets{0};
  for (int32_t count : counts) offsets.push_back(offsets.back() + count);
  return offsets;
}

/// A matrix of doubles, rounded to T where a kernel sees it, so that both compute from one input.
struct Matrix {
  int64_t rows, width;
  std::vector<double> values;
  double& at(int64_t r, int64_t c) { return values[static_cast<size_t>(r * width + c)]; }
  double at(int64_t r, int64_t c) const { return values[static_cast<size_t>(r * width + c)]; }
};

template <class T>
Matrix random_matrix(int64_t rows, int64_t width, double size, const char* name) {
  Random random(7, random_stream(name));
  Matrix matrix{rows, width, std::vector<double>(static_cast<size_t>(rows * width))};
  for (double& value : matrix.values) {
    value = static_cast<double>(static_cast<T>(size * random.normal()));
  }
  return matrix;
}

template <class T>
Tensor to_tensor(const Matrix& matrix) {
  return Tensor::from(cpu_backend(), {matrix.rows, matrix.width},
                      std::vector<T>(matrix.values.begin(), matrix.values.end()));
}

/// The matrix between columns of sentinels.
template <class T>
Columns to_columns(const Matrix& matrix) {
  Matrix wide{matrix.rows, kLeft + matrix.width + kRight, {}};
  wide.values.assign(static_cast<size_t>(wide.rows * wide.width), kSentinel);
  for (int64_t r = 0; r < matrix.rows; ++r) {
    for (int64_t c = 0; c < matrix.width; ++c) wide.at(r, kLeft + c) = matrix.at(r, c);
  }
  return {to_tensor<T>(wide), kLeft, matrix.width};
}

template <class T>
Matrix to_matrix(const Tensor& tensor) {
  const std::vector<T> values = tensor.to_vector<T>();
  return {tensor.rows(), tensor.width(), std::vector<double>(values.begin(), values.end())};
}

/// The columns' values; sentinels around them must be as they were.
template <class T>
Matrix to_matrix(const Columns& columns) {
  const Matrix wide = to_matrix<T>(columns.matrix);
  Matrix matrix{wide.rows, columns.count, {}};
  for (int64_t r = 0; r < wide.rows; ++r) {
    for (int64_t c = 0; c < wide.width; ++c) {
      if (c >= columns.first && c < columns.first + columns.count) {
        matrix.values.push_back(wide.at(r, c));
      } else {
        EXPECT_EQ(wide.at(r, c), kSentinel) << "row " << r << " column " << c << " was touched";
      }
    }
  }
  return matrix;
}

struct Inputs {
  Matrix q, k, v, dy;
};

struct Results {
  Matrix y, log_sum_exp, dq, dk, dv;
};

template <class T>
Inputs make_inputs(const Case& c) {
  const int64_t width = c.heads * c.d;
  const int64_t rq = std::reduce(c.queries.begin(), c.queries.end());
  const int64_t rk = std::reduce(c.keys.begin(), c.keys.end());
  return {random_matrix<T>(rq, width, c.score_size, "q"), random_matrix<T>(rk, width, 1, "k"),
          random_matrix<T>(rk, width, 1, "v"), random_matrix<T>(rq, width, 1, "dy")};
}

/// Gradients before the call, where they are added to.
template <class T>
Matrix start_of(const Matrix& like, const Case& c, const char* name) {
  Matrix start = random_matrix<T>(like.rows, like.width, 1, name);
  if (c.accumulate == Accumulate::kNo) {
    std::fill(start.values.begin(), start.values.end(), std::nan(""));
  }
  return start;
}

template <class T>
Results run(const Case& c, const Inputs& in) {
  Backend& cpu = cpu_backend();
  const auto query_offsets = offsets_of(c.queries), key_offsets = offsets_of(c.keys);
  const int64_t count = static_cast<int64_t>(query_offsets.size());
  const Sequences sequences{Tensor::from(cpu, {count}, query_offsets),
                            Tensor::from(cpu, {count}, key_offsets),
                            *std::max_element(c.queries.begin(), c.queries.end()),
                            *std::max_element(c.keys.begin(), c.keys.end())};
  const AttentionOptions options{c.heads, c.causal};
  const Columns q = to_columns<T>(in.q), k = to_columns<T>(in.k), v = to_columns<T>(in.v);
  Tensor y = to_tensor<T>(start_of<T>(in.q, {}, "y"));
  Tensor log_sum_exp = Tensor::zeros(cpu, {c.heads, in.q.rows}, kDTypeOf<T>);
  cpu.attention_forward(y, log_sum_exp, q, k, v, sequences, options);
  Columns dq = to_columns<T>(start_of<T>(in.q, c, "dq"));
  Columns dk = to_columns<T>(start_of<T>(in.k, c, "dk"));
  Columns dv = to_columns<T>(start_of<T>(in.v, c, "dv"));
  cpu.attention_backward(dq, dk, dv, to_tensor<T>(in.dy), y, log_sum_exp, q, k, v, sequences,
                         options, c.accumulate, c.accumulate);
  return {to_matrix<T>(y), to_matrix<T>(log_sum_exp), to_matrix<T>(dq), to_matrix<T>(dk),
          to_matrix<T>(dv)};
}

/// One query row of one head: probabilities of its visible keys, and the log-sum-exp.
std::vector<double> probabilities(const Case& c, const Inputs& in, int64_t row, int64_t first_key,
                                  int64_t visible, int64_t column, double& log_sum_exp) {
  std::vector<double> p(static_cast<size_t>(visible));
  double largest = -INFINITY, sum = 0;
  for (int64_t j = 0; j < visible; ++j) {
    double score = 0;
    for (int64_t e = 0; e < c.d; ++e) {
      score += in.q.at(row, column + e) * in.k.at(first_key + j, column + e);
    }
    p[static_cast<size_t>(j)] = score / std::sqrt(static_cast<double>(c.d));
    largest = std::max(largest, p[static_cast<size_t>(j)]);
  }
  for (double& score : p) sum += score = std::exp(score - largest);
  for (double& score : p) score /= sum;
  log_sum_exp = largest + std::log(sum);
  return p;
}

template <class T>
Results reference(const Case& c, const Inputs& in) {
  const auto zeros = [](const Matrix& like) {
    return Matrix{like.rows, like.width, std::vector<double>(like.values.size())};
  };
  const auto start = [&](const Matrix& like, const char* name) {
    return c.accumulate == Accumulate::kNo ? zeros(like) : start_of<T>(like, c, name);
  };
  Results out{zeros(in.q),
              {c.heads, in.q.rows, {}},
              start(in.q, "dq"),
              start(in.k, "dk"),
              start(in.v, "dv")};
  out.log_sum_exp.values.assign(static_cast<size_t>(c.heads * in.q.rows), 0);
  const double scale = 1 / std::sqrt(static_cast<double>(c.d));
  const auto query_offsets = offsets_of(c.queries), key_offsets = offsets_of(c.keys);
  for (size_t s = 0; s < c.queries.size(); ++s) {
    for (int64_t task = 0; task < c.heads * c.queries[s]; ++task) {
      const int64_t h = task / c.queries[s], i = task % c.queries[s], column = h * c.d;
      const int64_t row = query_offsets[s] + i, first_key = key_offsets[s];
      const int64_t visible =
          c.causal == Causal::kYes ? std::min<int64_t>(i + 1, c.keys[s]) : c.keys[s];
      const std::vector<double> p =
          probabilities(c, in, row, first_key, visible, column, out.log_sum_exp.at(h, row));
      double delta = 0;
      std::vector<double> dp(p.size());
      for (size_t j = 0; j < p.size(); ++j) {
        const int64_t key = first_key + static_cast<int64_t>(j);
        for (int64_t e = column; e < column + c.d; ++e) {
          out.y.at(row, e) += p[j] * in.v.at(key, e);
          out.dv.at(key, e) += p[j] * in.dy.at(row, e);
          dp[j] += in.dy.at(row, e) * in.v.at(key, e);
        }
        delta += p[j] * dp[j];
      }
      for (size_t j = 0; j < p.size(); ++j) {
        const int64_t key = first_key + static_cast<int64_t>(j);
        const double ds = p[j] * (dp[j] - delta) * scale;
        for (int64_t e = column; e < column + c.d; ++e) {
          out.dq.at(row, e) += ds * in.k.at(key, e);
          out.dk.at(key, e) += ds * in.q.at(row, e);
        }
      }
    }
  }
  return out;
}

/// Largest difference, relative to the largest value expected, or to least_size if that is more.
double difference(const Matrix& actual, const Matrix& expected, double least_size = 1e-300) {
  double largest = 0, size = least_size;
  EXPECT_EQ(actual.values.size(), expected.values.size());
  for (size_t i = 0; i < expected.values.size(); ++i) {
    const double a = actual.values[i], e = expected.values[i];
    if (a == e) continue;  // also two infinities
    if (!std::isfinite(a) || !std::isfinite(e)) return INFINITY;
    largest = std::max(largest, std::abs(a - e));
    size = std::max(size, std::abs(e));
  }
  return largest / size;
}

template <class T>
void expect_agreement(const Case& c, double tolerance) {
  SCOPED_TRACE(describe(c));
  const Inputs in = make_inputs<T>(c);
  const Results actual = run<T>(c, in), expected = reference<T>(c, in);
  EXPECT_LE(difference(actual.y, expected.y), tolerance) << "y";
  EXPECT_LE(difference(actual.log_sum_exp, expected.log_sum_exp), tolerance) << "log_sum_exp";
  // These are sums of differences of terms of size 1, which cancel where there is one key.
  EXPECT_LE(difference(actual.dq, expected.dq, 1), tolerance) << "dq";
  EXPECT_LE(difference(actual.dk, expected.dk, 1), tolerance) << "dk";
  EXPECT_LE(difference(actual.dv, expected.dv), tolerance) << "dv";
}

// F32: scores of size 1 to 5 carry a few roundings of 6e-8 each from their sums over D, and so do
// probabilities; sums over keys average them out. 2e-6 is 30 roundings, and a wrong or missing term
// of any sum is at least a hundred times larger. F64: the same in its roundings (1e-16), with room.
constexpr double kToleranceF32 = 2e-6, kToleranceF64 = 1e-12;

void expect_agreement(const Case& c) {
  expect_agreement<float>(c, kToleranceF32);
  expect_agreement<double>(c, kToleranceF64);
}

Case self_attention(const std::vector<int32_t>& counts, int64_t heads, int64_t d, Causal causal,
                    Accumulate accumulate = Accumulate::kNo) {
  return {counts, counts, heads, d, causal, accumulate};
}

TEST(Attention, AgreesWithPlainLoopsForImages) {
  for (int32_t t : {1, 15, 16, 17, 50, 65, 77, 197, 257}) {
    for (int64_t d : {8, 32, 64, 80}) expect_agreement(self_attention({t, t}, 2, d, Causal::kNo));
  }
}

TEST(Attention, AgreesWithPlainLoopsForCausalText) {
  for (int64_t d : {8, 32, 64, 80}) {
    expect_agreement(self_attention({4, 77, 1, 15, 16, 17, 50, 8, 31}, 2, d, Causal::kYes));
    expect_agreement(self_attention({197}, 1, d, Causal::kYes));
  }
}

TEST(Attention, AcceptsHeadSizesThatFillNoRegister) {
  for (int64_t d : {1, 3, 5, 20}) {
    for (Causal causal : {Causal::kNo, Causal::kYes}) {
      expect_agreement(self_attention({5, 50, 19}, 3, d, causal));
    }
  }
}

TEST(Attention, AgreesForOneQueryRowPerSequence) {
  for (int64_t d : {8, 32, 64, 80}) {
    expect_agreement({{1, 1, 1, 1}, {65, 1, 17, 257}, 3, d});
    expect_agreement({{2, 1, 3}, {50, 77, 18}, 2, d});
  }
}

TEST(Attention, AgreesForMoreQueriesThanKeysAndFewer) {
  for (Causal causal : {Causal::kNo, Causal::kYes}) {
    expect_agreement({{100, 5, 30}, {7, 60, 30}, 2, 32, causal});
  }
}

TEST(Attention, AddsToGradientsWhenAsked) {
  for (Causal causal : {Causal::kNo, Causal::kYes}) {
    expect_agreement(self_attention({4, 77, 20}, 2, 32, causal, Accumulate::kYes));
    expect_agreement({{1, 1}, {50, 17}, 2, 64, causal, Accumulate::kYes});
  }
}

TEST(Attention, AcceptsEmptySequences) {
  for (Accumulate accumulate : {Accumulate::kNo, Accumulate::kYes}) {
    expect_agreement(self_attention({0, 5, 0, 0, 9, 0}, 2, 16, Causal::kYes, accumulate));
    expect_agreement({{0, 4, 3}, {6, 0, 5}, 2, 16, Causal::kNo, accumulate});
    expect_agreement({{0, 0}, {0, 0}, 2, 16, Causal::kNo, accumulate});
  }
}

// Scores reach 1e4, where F32 has steps of 1e-3: probabilities of close scores are known to about
// that, the log-sum-exp to one step. Most rows see one key, so their true gradients of scores are
// next to nothing; dq and dk are measured against the terms they are sums of, k and q.
template <class T>
void expect_large_scores_work(Causal causal, double tolerance) {
  Case c = self_attention({65, 8}, 2, 64, causal);
  c.score_size = 1e4;
  SCOPED_TRACE(describe(c));
  const Inputs in = make_inputs<T>(c);
  const Results actual = run<T>(c, in), expected = reference<T>(c, in);
  EXPECT_LE(difference(actual.y, expected.y), tolerance) << "y";
  EXPECT_LE(difference(actual.log_sum_exp, expected.log_sum_exp), tolerance) << "log_sum_exp";
  EXPECT_LE(difference(actual.dq, expected.dq, 1), tolerance) << "dq";
  EXPECT_LE(difference(actual.dk, expected.dk, c.score_size), tolerance) << "dk";
  EXPECT_LE(difference(actual.dv, expected.dv), tolerance) << "dv";
}

TEST(Attention, LargeScoresNeitherOverflowNorVanish) {
  for (Causal causal : {Causal::kNo, Causal::kYes}) {
    expect_large_scores_work<float>(causal, 5e-3);
    expect_large_scores_work<double>(causal, 1e-10);
  }
}

TEST(Attention, ReportsNotANumberInsteadOfHidingIt) {
  const Case c = self_attention({20}, 1, 16, Causal::kNo);
  Inputs in = make_inputs<float>(c);
  in.k.at(3, 2) = std::nan("");
  for (double value : run<float>(c, in).y.values) EXPECT_TRUE(std::isnan(value));
}

template <class T>
void expect_equal_bits_for_one_and_two_threads(const Case& c) {
  const Inputs in = make_inputs<T>(c);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const Results one = run<T>(c, in);
  omp_set_num_threads(2);
  const Results two = run<T>(c, in);
  omp_set_num_threads(threads);
  EXPECT_EQ(one.y.values, two.y.values);
  EXPECT_EQ(one.log_sum_exp.values, two.log_sum_exp.values);
  EXPECT_EQ(one.dq.values, two.dq.values);
  EXPECT_EQ(one.dk.values, two.dk.values);
  EXPECT_EQ(one.dv.values, two.dv.values);
}

TEST(Attention, GivesTheSameBitsForAnyThreadCount) {
  for (Causal causal : {Causal::kNo, Causal::kYes}) {
    const Case c = self_attention({65, 4, 17, 77, 0, 50, 9}, 3, 32, causal, Accumulate::kYes);
    expect_equal_bits_for_one_and_two_threads<float>(c);
    expect_equal_bits_for_one_and_two_threads<double>(c);
  }
}

}  // namespace
}  // namespace clip
