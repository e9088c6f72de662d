#include <algorithm>

#include "cuda/check.h"
#include "cuda/cublas_lt.h"

namespace clip {
namespace {

cudaDataType_t data_type(DType dtype) { return dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F; }

/// The largest power of two, at most 256, that divides the address: algorithms depend on it.
uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<uintptr_t>(address) | 256u;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

template <class Handle, cublasStatus_t (*destroy)(Handle)>
struct Destroy {
  using pointer = Handle;
  void operator()(Handle handle) const { destroy(handle); }
};
template <class Handle, cublasStatus_t (*destroy)(Handle)>
using Owned = std::unique_ptr<Handle, Destroy<Handle, destroy>>;
using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

/// What an algorithm may depend on of one matrix.
struct MatrixKind {
  DType dtype;
  int64_t rows, columns, stride;
  Transpose transpose;
  uint32_t alignment;
  auto operator<=>(const MatrixKind&) const = default;
};

MatrixKind kind_of(const LtMatrix& matrix) {
  return {matrix.dtype,  matrix.rows,      matrix.columns,
          matrix.stride, matrix.transpose, alignment_of(matrix.data)};
}

/// cuBLAS reads columns first: to it a row-major matrix is the transposed one.
Layout layout_of(const MatrixKind& matrix) {
  cublasLtMatrixLayout_t layout = nullptr;
  check_cublas(cublasLtMatrixLayoutCreate(&layout, data_type(matrix.dtype),
                                          static_cast<uint64_t>(matrix.columns),
                                          static_cast<uint64_t>(matrix.rows), matrix.stride),
               "matmul");
  return Layout(layout);
}

template <class T>
void set(const Operation& operation, cublasLtMatmulDescAttributes_t attribute, T value) {
  check_cublas(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof(value)),
               "matmul");
}

template <class T>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  check_cublas(
      cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)),
      "matmul");
}

cublasOperation_t operation_of(Transpose transpose) {
  return transpose == Transpose::kYes ? CUBLAS_OP_T : CUBLAS_OP_N;
}

}  // namespace

struct CublasLt::Key {
  MatrixKind c, a, b;
  auto operator<=>(const Key&) const = default;
};

struct CublasLt::Plan {
  Operation operation;
  Layout c, a, b;
  cublasLtMatmulAlgo_t algorithm;
};

CublasLt::CublasLt(void* workspace, int64_t workspace_bytes)
    : workspace_(workspace), workspace_bytes_(workspace_bytes) {
  check_cublas(cublasLtCreate(&handle_), "matmul");
}

CublasLt::~CublasLt() {
  plans_.clear();
  cublasLtDestroy(handle_);
}

// Row-major c = op(a) op(b) is, columns first, cᵀ = op(b)ᵀ op(a)ᵀ: cuBLAS's A is our b, its B our a.
std::unique_ptr<CublasLt::Plan> CublasLt::make_plan(const Key& key) const {
  auto plan = std::make_unique<Plan>();
  cublasLtMatmulDesc_t operation = nullptr;
  check_cublas(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "matmul");
  plan->operation.reset(operation);
  set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, operation_of(key.b.transpose));
  set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSB, operation_of(key.a.transpose));
  plan->c = layout_of(key.c);
  plan->a = layout_of(key.a);
  plan->b = layout_of(key.b);

  cublasLtMatmulPreference_t created = nullptr;
  check_cublas(cublasLtMatmulPreferenceCreate(&created), "matmul");
  const Preference preference(created);
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
      static_cast<uint64_t>(workspace_bytes_));
  // Parts of a split sum are kept in F32 and added in order.
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.b.alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.a.alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.c.alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.c.alignment);
  cublasLtMatmulHeuristicResult_t found = {};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, plan->operation.get(), plan->b.get(), plan->a.get(), plan->c.get(), plan->c.get(),
      preference.get(), 1, &found, &count);
  check_cublas(status == CUBLAS_STATUS_SUCCESS ? found.state : status, "matmul");
  CLIP_CHECK(count == 1, "[matmul] cuBLAS knows no algorithm for ", key.a.dtype, " matrices [",
             key.a.rows, ", ", key.a.columns, "] and [", key.b.rows, ", ", key.b.columns, "]");
  plan->algorithm = found.algo;
  return plan;
}

CublasLt::Plan& CublasLt::plan_for(const LtMatrix& c, const LtMatrix& a, const LtMatrix& b) {
  const Key key{kind_of(c), kind_of(a), kind_of(b)};
  std::unique_ptr<Plan>& plan = plans_[key];
  if (plan == nullptr) plan = make_plan(key);
  return *plan;
}

void CublasLt::multiply(const LtMatrix& c, const LtMatrix& a, const LtMatrix& b, float alpha,
                        float beta, cudaStream_t stream) {
  const Plan& plan = plan_for(c, a, b);
  check_cublas(
      cublasLtMatmul(handle_, plan.operation.get(), &alpha, b.data, plan.b.get(), a.data,
                     plan.a.get(), &beta, c.data, plan.c.get(), c.data, plan.c.get(),
                     &plan.algorithm, workspace_, static_cast<size_t>(workspace_bytes_), stream),
      "matmul");
  wait_if_asked(stream, "matmul");
}

}  // namespace clip
