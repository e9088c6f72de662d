// The stand-in for cuBLASLt multiplies, and refuses what the library refuses.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>

#include "tests/cudasim/test_device.h"

namespace cudasim {
namespace {

/// A product of small integers, which are exact in BF16: d = alpha op(a) op(b) + beta d.
struct Product {
  int64_t m = 5, n = 3, k = 7;
  cublasOperation_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  cudaDataType_t inputs = CUDA_R_32F, output = CUDA_R_32F;
  float alpha = 1, beta = 0;
  bool bias = false;
  // To be wrong about one thing.
  uint32_t promised_alignment = 16;
  int64_t offset_a = 0;  ///< numbers that A starts late
  int64_t stride_a_less = 0;
  int64_t columns_of_b_more = 0;
  size_t workspace_bytes = 1 << 16;
  int64_t lent_rows = 0;  ///< the algorithm of a product of so many more rows

  int64_t rows_a() const { return transpose_a == CUBLAS_OP_N ? m : k; }
  int64_t columns_a() const { return transpose_a == CUBLAS_OP_N ? k : m; }
  int64_t rows_b() const { return transpose_b == CUBLAS_OP_N ? k : n; }
  int64_t columns_b() const { return transpose_b == CUBLAS_OP_N ? n : k; }
};

int64_t stride_of(int64_t rows) { return (rows + 7) / 8 * 8 + 8; }
float element(int64_t row, int64_t column, int64_t seed) {
  return static_cast<float>((row * 5 + column * 3 + seed) % 7 - 3);
}

/// Columns first, with gaps of NaN.
std::vector<unsigned char> matrix_bytes(int64_t rows, int64_t columns, cudaDataType_t type,
                                        int64_t seed) {
  const int64_t stride = stride_of(rows);
  std::vector<float> wide(static_cast<size_t>(stride * columns), NAN);
  for (int64_t column = 0; column < columns; ++column)
    for (int64_t row = 0; row < rows; ++row)
      wide[static_cast<size_t>(column * stride + row)] = element(row, column, seed);
  std::vector<__nv_bfloat16> narrow;
  for (const float value : wide) narrow.push_back(__float2bfloat16(value));
  const bool is_wide = type == CUDA_R_32F;
  const auto* first = is_wide ? reinterpret_cast<const unsigned char*>(wide.data())
                              : reinterpret_cast<const unsigned char*>(narrow.data());
  return {first, first + wide.size() * (is_wide ? sizeof(float) : sizeof(__nv_bfloat16))};
}

struct Outcome {
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  std::string sentence;
  std::vector<float> d;  ///< m x n, columns first
};

class Multiplication {
 public:
  explicit Multiplication(const Product& product) : p(product) { cublasLtCreate(&handle_); }
  ~Multiplication() {
    for (cublasLtMatrixLayout_t layout : layouts_) cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulPreferenceDestroy(preference_);
    cublasLtMatmulDescDestroy(description_);
    cublasLtDestroy(handle_);
  }
  Multiplication(const Multiplication&) = delete;
  Multiplication& operator=(const Multiplication&) = delete;

  Outcome run() {
    describe();
    const std::array<cublasLtMatrixLayout_t, 3> layouts = layouts_for(p.m);
    const std::array<cublasLtMatrixLayout_t, 3> asked = layouts_for(p.m + p.lent_rows);
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    if (!good(cublasLtMatmulAlgoGetHeuristic(handle_, description_, asked[0], asked[1], asked[2],
                                             asked[2], preference_, 1, &found, &count)))
      return outcome_;
    EXPECT_EQ(count, 1);
    EXPECT_LE(found.workspaceSize, size_t{1} << 20);
    const unsigned char* a = a_.data() + p.offset_a * size_of(p.inputs);
    if (good(cublasLtMatmul(handle_, description_, &p.alpha, a, layouts[0], b_.data(), layouts[1],
                            &p.beta, d_.data(), layouts[2], d_.data(), layouts[2], &found.algo,
                            workspace_.data(), p.workspace_bytes, stream_))) {
      stream_.wait();
      fetch();
    }
    return outcome_;
  }

 private:
  static int64_t size_of(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

  bool good(cublasStatus_t status) {
    outcome_.status = status;
    if (status != CUBLAS_STATUS_SUCCESS) outcome_.sentence = cublasLtGetStatusString(status);
    return status == CUBLAS_STATUS_SUCCESS;
  }

  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    good(cublasLtMatmulDescSetAttribute(description_, attribute, &value, sizeof(value)));
  }
  template <class T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    good(cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof(value)));
  }

  void describe() {
    good(cublasLtMatmulDescCreate(&description_, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_a);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_b);
    if (p.bias) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(bias_.data()));
    }
    good(cublasLtMatmulPreferenceCreate(&preference_));
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{1} << 20);
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      set(attribute, p.promised_alignment);
  }

  std::array<cublasLtMatrixLayout_t, 3> layouts_for(int64_t m) {
    const bool plain = p.transpose_a == CUBLAS_OP_N;
    const int64_t rows_a = plain ? m : p.k, columns_a = plain ? p.k : m;
    return {
        layout(p.inputs, rows_a, columns_a, stride_of(p.rows_a()) - p.stride_a_less),
        layout(p.inputs, p.rows_b(), p.columns_b() + p.columns_of_b_more, stride_of(p.rows_b())),
        layout(p.output, m, p.n, stride_of(p.m))};
  }
  cublasLtMatrixLayout_t layout(cudaDataType_t type, int64_t rows, int64_t columns,
                                int64_t stride) {
    cublasLtMatrixLayout_t created = nullptr;
    good(cublasLtMatrixLayoutCreate(&created, type, static_cast<uint64_t>(rows),
                                    static_cast<uint64_t>(columns), stride));
    layouts_.push_back(created);
    return created;
  }

  void fetch() {
    const std::vector<unsigned char> bytes = d_.values();
    for (int64_t column = 0; column < p.n; ++column)
      for (int64_t row = 0; row < p.m; ++row) {
        const int64_t at = column * stride_of(p.m) + row;
        outcome_.d.push_back(
            p.output == CUDA_R_32F
                ? reinterpret_cast<const float*>(bytes.data())[at]
                : __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(bytes.data())[at]));
      }
  }

  const Product p;
  TestStream stream_;
  DeviceArray<unsigned char> a_{matrix_bytes(p.rows_a(), p.columns_a(), p.inputs, 1)};
  DeviceArray<unsigned char> b_{matrix_bytes(p.rows_b(), p.columns_b(), p.inputs, 2)};
  DeviceArray<unsigned char> d_{matrix_bytes(p.m, p.n, p.output, 3)};
  DeviceArray<unsigned char> bias_{matrix_bytes(p.m, 1, p.output, 4)};
  DeviceArray<unsigned char> workspace_{1 << 20};
  Outcome outcome_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t description_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  std::vector<cublasLtMatrixLayout_t> layouts_;
};

Outcome multiply(const Product& product) { return Multiplication(product).run(); }

void expect_right(const Product& p) {
  const Outcome outcome = multiply(p);
  ASSERT_EQ(outcome.status, CUBLAS_STATUS_SUCCESS) << outcome.sentence;
  for (int64_t n = 0; n < p.n; ++n)
    for (int64_t m = 0; m < p.m; ++m) {
      float sum = 0;
      for (int64_t k = 0; k < p.k; ++k)
        sum += (p.transpose_a == CUBLAS_OP_N ? element(m, k, 1) : element(k, m, 1)) *
               (p.transpose_b == CUBLAS_OP_N ? element(k, n, 2) : element(n, k, 2));
      float expected = p.alpha * sum + p.beta * element(m, n, 3);
      if (p.bias) expected += element(m, 0, 4);
      EXPECT_EQ(outcome.d[static_cast<size_t>(n * p.m + m)], expected) << m << " " << n;
    }
}

void expect_refused(const Product& product, cublasStatus_t status, const char* reason) {
  const Outcome outcome = multiply(product);
  EXPECT_EQ(outcome.status, status);
  EXPECT_NE(outcome.sentence.find(reason), std::string::npos) << outcome.sentence;
}

TEST(CublasLt, EveryTransposition) {
  for (const auto a : {CUBLAS_OP_N, CUBLAS_OP_T})
    for (const auto b : {CUBLAS_OP_N, CUBLAS_OP_T})
      expect_right({.transpose_a = a, .transpose_b = b});
}

TEST(CublasLt, Bf16InputsWithEitherOutput) {
  expect_right({.transpose_a = CUBLAS_OP_T, .inputs = CUDA_R_16BF, .output = CUDA_R_32F});
  expect_right({.transpose_b = CUBLAS_OP_T, .inputs = CUDA_R_16BF, .output = CUDA_R_16BF});
}

TEST(CublasLt, AlphaBetaAndBias) {
  expect_right({.alpha = 2, .beta = 1});
  expect_right({.alpha = 0.5f, .beta = 0, .bias = true});
  expect_right({.inputs = CUDA_R_16BF, .output = CUDA_R_16BF, .beta = 1, .bias = true});
}

TEST(CublasLt, ShapesMustFit) {
  expect_refused({.columns_of_b_more = 1}, CUBLAS_STATUS_INVALID_VALUE,
                 "shapes do not fit: A 5 x 7");
}

TEST(CublasLt, LeadingDimensionHoldsTheRows) {
  expect_refused({.stride_a_less = 12}, CUBLAS_STATUS_INVALID_VALUE,
                 "A's leading dimension 4 is less than its 5 rows");
}

TEST(CublasLt, LeadingDimensionInBf16IsAMultipleOfEight) {
  expect_refused({.inputs = CUDA_R_16BF, .stride_a_less = 4}, CUBLAS_STATUS_NOT_SUPPORTED,
                 "A's leading dimension 12 is no multiple of 8");
}

TEST(CublasLt, PointersHaveTheAlignmentThatWasPromised) {
  expect_refused({.promised_alignment = 256, .offset_a = 4}, CUBLAS_STATUS_INVALID_VALUE,
                 "not 256-byte aligned, as the heuristic was told");
  expect_refused({.inputs = CUDA_R_16BF, .promised_alignment = 2, .offset_a = 4},
                 CUBLAS_STATUS_INVALID_VALUE, "not 16-byte aligned");
}

TEST(CublasLt, MatricesLieInDeviceMemory) {
  expect_refused({.offset_a = 96}, CUBLAS_STATUS_INVALID_VALUE,
                 "is not inside an allocation of the device");
}

TEST(CublasLt, WorkspaceIsWhatTheAlgorithmNeeds) {
  expect_refused({.workspace_bytes = 100}, CUBLAS_STATUS_INVALID_VALUE, "a workspace of 100 bytes");
}

TEST(CublasLt, AlgorithmIsForThisProblem) {
  expect_refused({.lent_rows = 1}, CUBLAS_STATUS_INVALID_VALUE, "for another problem");
}

TEST(CublasLt, AttributesHaveTheirSizeAndKnownValues) {
  cublasLtMatmulDesc_t description = nullptr;
  ASSERT_EQ(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F),
            CUBLAS_STATUS_SUCCESS);
  const int64_t wide = 0;
  EXPECT_EQ(
      cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &wide, sizeof(wide)),
      CUBLAS_STATUS_INVALID_VALUE);
  const cublasLtEpilogue_t gelu = CUBLASLT_EPILOGUE_GELU;
  EXPECT_EQ(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_EPILOGUE, &gelu,
                                           sizeof(gelu)),
            CUBLAS_STATUS_NOT_SUPPORTED);
  cublasLtMatmulDescDestroy(description);
  EXPECT_EQ(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_64F, CUDA_R_64F),
            CUBLAS_STATUS_NOT_SUPPORTED);
}

}  // namespace
}  // namespace cudasim
