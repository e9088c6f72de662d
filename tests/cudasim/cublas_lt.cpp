// The part of cuBLASLt that the project calls: columns first, sums in F32, F32 and BF16 matrices,
// the bias epilogue. What the library would refuse, or is not asked for here, comes back as an error
// whose sentence (cublasLtGetStatusString) says what was wrong.
#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "tests/cudasim/cublas_lt_product.h"
#include "tests/cudasim/error.h"
#include "tests/cudasim/memory.h"
#include "tests/cudasim/stream.h"

namespace cudasim {
namespace {

struct LastStatus {
  cublasStatus_t code = CUBLAS_STATUS_SUCCESS;
  std::string sentence;
};

LastStatus& last_status() {
  thread_local LastStatus status;
  return status;
}

const char* status_name(cublasStatus_t code) {
  switch (code) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    default:
      return "a status that the simulator does not give";
  }
}

template <class F>
cublasStatus_t guarded(const char* function, const F& body) {
  const std::lock_guard<std::recursive_mutex> lock(runtime_mutex());
  try {
    body();
    return CUBLAS_STATUS_SUCCESS;
  } catch (const Refusal& refusal) {
    last_status() = {refusal.code,
                     clip::concat(status_name(refusal.code), ": ", function, ": ", refusal.reason)};
    return refusal.code;
  }
}

// ---- Descriptors
struct Preference {
  uint64_t workspace_bytes = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};  ///< of A, B, C, D: NVIDIA's defaults
};

template <class T>
void read(T& value, const void* from, size_t bytes, int attribute) {
  if (from == nullptr || bytes != sizeof(T))
    refuse("attribute ", attribute, " has ", sizeof(T), " bytes, got ", bytes);
  std::memcpy(&value, from, sizeof(T));
}

/// For attributes that may be set to one value only.
void require_value(int64_t expected, const void* from, size_t bytes, int attribute) {
  int32_t value = 0;
  read(value, from, bytes, attribute);
  if (value != expected) not_supported("attribute ", attribute, " set to ", value);
}

cublasOperation_t read_transpose(const void* from, size_t bytes, int attribute) {
  int32_t value = 0;
  read(value, from, bytes, attribute);
  if (value != CUBLAS_OP_N && value != CUBLAS_OP_T) not_supported("operation ", value);
  return static_cast<cublasOperation_t>(value);
}

void check_type(cudaDataType_t type) {
  if (type != CUDA_R_32F && type != CUDA_R_16BF)
    not_supported("data type ", static_cast<int>(type), " (only CUDA_R_32F and CUDA_R_16BF)");
}

/// What stands in cublasLtMatmulAlgo_t.
struct Algorithm {
  uint64_t digest;
  uint32_t alignment[4];
  uint64_t workspace_bytes;
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

void check_matrix(const char* name, const void* data, const Layout& layout,
                  uint32_t promised_alignment) {
  const int64_t own_alignment = layout.type == CUDA_R_16BF ? 16 : 4;
  const auto address = reinterpret_cast<uintptr_t>(data);
  if (address % static_cast<uintptr_t>(own_alignment) != 0)
    refuse(name, " at ", data, " is not ", own_alignment, "-byte aligned");
  if (address % promised_alignment != 0)
    refuse(name, " at ", data, " is not ", promised_alignment,
           "-byte aligned, as the heuristic was told");
  const int64_t numbers = (layout.columns - 1) * layout.stride + layout.rows;
  if (!is_device_memory(data, numbers * size_of(layout.type)))
    refuse(name, " at ", data, ", ", numbers * size_of(layout.type),
           " bytes, is not inside an allocation of the device");
}

void check_bias(const Problem& p) {
  if (p.description.epilogue != CUBLASLT_EPILOGUE_BIAS) return;
  const int64_t size = p.description.bias_type == CUDA_R_32F ? 4 : size_of(p.d.type);
  if (!is_device_memory(p.description.bias, p.m * size))
    refuse("the bias at ", p.description.bias, ", ", p.m * size,
           " bytes, is not inside an allocation of the device");
}

template <class T, class Handle>
T& object_of(Handle handle) {
  if (handle == nullptr) refuse("a null descriptor");
  return *reinterpret_cast<T*>(handle);
}

constexpr uint64_t kWantedWorkspace = uint64_t{64} << 10;

}  // namespace
}  // namespace cudasim

using namespace cudasim;

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(new int(0));
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete reinterpret_cast<int*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}

const char* cublasLtGetStatusName(cublasStatus_t code) { return status_name(code); }

const char* cublasLtGetStatusString(cublasStatus_t code) {
  const LastStatus& last = last_status();
  return code != CUBLAS_STATUS_SUCCESS && code == last.code ? last.sentence.c_str()
                                                            : status_name(code);
}

size_t cublasLtGetVersion() { return CUBLAS_VERSION; }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description,
                                        cublasComputeType_t compute, cudaDataType_t scale) {
  return guarded("cublasLtMatmulDescCreate", [&] {
    if ((compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_FAST_TF32) ||
        scale != CUDA_R_32F)
      not_supported("compute type ", static_cast<int>(compute), " with scale type ",
                    static_cast<int>(scale));
    *description = reinterpret_cast<cublasLtMatmulDesc_t>(new Description);
  });
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete reinterpret_cast<Description*>(description);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* from, size_t bytes) {
  return guarded("cublasLtMatmulDescSetAttribute", [&] {
    auto& description = object_of<Description>(handle);
    switch (attribute) {
      case CUBLASLT_MATMUL_DESC_TRANSA:
        description.transpose_a = read_transpose(from, bytes, attribute);
        break;
      case CUBLASLT_MATMUL_DESC_TRANSB:
        description.transpose_b = read_transpose(from, bytes, attribute);
        break;
      case CUBLASLT_MATMUL_DESC_TRANSC:
        require_value(CUBLAS_OP_N, from, bytes, attribute);
        break;
      case CUBLASLT_MATMUL_DESC_POINTER_MODE:
        require_value(CUBLASLT_POINTER_MODE_HOST, from, bytes, attribute);
        break;
      case CUBLASLT_MATMUL_DESC_EPILOGUE:
        read(description.epilogue, from, bytes, attribute);
        if (description.epilogue != CUBLASLT_EPILOGUE_DEFAULT &&
            description.epilogue != CUBLASLT_EPILOGUE_BIAS)
          not_supported("epilogue ", static_cast<int>(description.epilogue));
        break;
      case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        read(description.bias, from, bytes, attribute);
        break;
      case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        read(description.bias_type, from, bytes, attribute);
        check_type(static_cast<cudaDataType_t>(description.bias_type));
        break;
      default:
        not_supported("attribute ", static_cast<int>(attribute));
    }
  });
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type,
                                          uint64_t rows, uint64_t columns, int64_t stride) {
  return guarded("cublasLtMatrixLayoutCreate", [&] {
    check_type(type);
    *layout = reinterpret_cast<cublasLtMatrixLayout_t>(
        new Layout{type, static_cast<int64_t>(rows), static_cast<int64_t>(columns), stride});
  });
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete reinterpret_cast<Layout*>(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t handle,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* from, size_t bytes) {
  return guarded("cublasLtMatrixLayoutSetAttribute", [&] {
    auto& layout = object_of<Layout>(handle);
    switch (attribute) {
      case CUBLASLT_MATRIX_LAYOUT_ROWS:
        read(layout.rows, from, bytes, attribute);
        break;
      case CUBLASLT_MATRIX_LAYOUT_COLS:
        read(layout.columns, from, bytes, attribute);
        break;
      case CUBLASLT_MATRIX_LAYOUT_LD:
        read(layout.stride, from, bytes, attribute);
        break;
      case CUBLASLT_MATRIX_LAYOUT_ORDER:
        require_value(CUBLASLT_ORDER_COL, from, bytes, attribute);
        break;
      case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        require_value(1, from, bytes, attribute);
        break;
      default:
        not_supported("attribute ", static_cast<int>(attribute));
    }
  });
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete reinterpret_cast<Preference*>(preference);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t handle,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* from, size_t bytes) {
  return guarded("cublasLtMatmulPreferenceSetAttribute", [&] {
    auto& preference = object_of<Preference>(handle);
    switch (attribute) {
      case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        read(preference.workspace_bytes, from, bytes, attribute);
        break;
      case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: {
        uint32_t& alignment =
            preference.alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES];
        read(alignment, from, bytes, attribute);
        if (alignment == 0) refuse("an alignment of 0 bytes");
        break;
      }
      case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: {
        uint32_t unused = 0;  // sums are never split here
        read(unused, from, bytes, attribute);
        break;
      }
      default:
        not_supported("attribute ", static_cast<int>(attribute));
    }
  });
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
                                              cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* count) {
  return guarded("cublasLtMatmulAlgoGetHeuristic", [&] {
    if (handle == nullptr) throw Refusal{CUBLAS_STATUS_NOT_INITIALIZED, "a null handle"};
    if (requested < 1 || results == nullptr || count == nullptr) refuse("no place for a result");
    *count = 0;
    const Problem problem =
        problem_of(object_of<Description>(description), object_of<Layout>(a), object_of<Layout>(b),
                   object_of<Layout>(c), object_of<Layout>(d));
    const auto& wishes = object_of<Preference>(preference);
    Algorithm algorithm{digest_of(problem), {}, std::min(kWantedWorkspace, wishes.workspace_bytes)};
    std::copy(std::begin(wishes.alignment), std::end(wishes.alignment), algorithm.alignment);
    results[0] = {};
    std::memcpy(&results[0].algo, &algorithm, sizeof(algorithm));
    results[0].workspaceSize = algorithm.workspace_bytes;
    results[0].state = CUBLAS_STATUS_SUCCESS;
    results[0].wavesCount = 1.0f;
    *count = 1;
  });
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                              const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  return guarded("cublasLtMatmul", [&] {
    if (handle == nullptr) throw Refusal{CUBLAS_STATUS_NOT_INITIALIZED, "a null handle"};
    if (alpha == nullptr || beta == nullptr) refuse("null alpha or beta");
    const Problem problem = problem_of(object_of<Description>(description),
                                       object_of<Layout>(a_layout), object_of<Layout>(b_layout),
                                       object_of<Layout>(c_layout), object_of<Layout>(d_layout));
    if (algo == nullptr) refuse("no algorithm: its choice would be hidden");
    Algorithm algorithm;
    std::memcpy(&algorithm, algo, sizeof(algorithm));
    if (algorithm.digest != digest_of(problem)) refuse("the algorithm is for another problem");
    check_matrix("A", a, problem.a, algorithm.alignment[0]);
    check_matrix("B", b, problem.b, algorithm.alignment[1]);
    check_matrix("C", c, problem.c, algorithm.alignment[2]);
    check_matrix("D", d, problem.d, algorithm.alignment[3]);
    check_bias(problem);
    if (c == d && problem.c.stride != problem.d.stride)
      refuse("C and D are one matrix with two leading dimensions");
    constexpr uintptr_t kWorkspaceAlignment = 256;
    if (workspace_bytes < algorithm.workspace_bytes)
      refuse("a workspace of ", workspace_bytes, " bytes, the algorithm needs ",
             algorithm.workspace_bytes);
    if (algorithm.workspace_bytes > 0 &&
        (!is_device_memory(workspace, static_cast<int64_t>(workspace_bytes)) ||
         reinterpret_cast<uintptr_t>(workspace) % kWorkspaceAlignment != 0))
      refuse("the workspace at ", workspace, ", ", workspace_bytes,
             " bytes, is not 256-byte aligned or not inside an allocation of the device");
    const Operands operands{a,
                            b,
                            c,
                            d,
                            workspace,
                            algorithm.workspace_bytes,
                            *static_cast<const float*>(alpha),
                            *static_cast<const float*>(beta)};
    if (enqueue(stream, [=] { multiply(problem, operands); }) != cudaSuccess)
      refuse(cudaGetErrorString(cudaGetLastError()));
  });
}
