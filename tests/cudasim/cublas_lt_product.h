// Products as cuBLASLt describes them, for cublas_lt.cpp.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <string>

#include "engine/check.h"

namespace cudasim {

/// Thrown inside an entry point of cuBLASLt and caught at its edge.
struct Refusal {
  cublasStatus_t code;
  std::string reason;
};

template <class... Parts>
[[noreturn]] void refuse(const Parts&... reason) {
  throw Refusal{CUBLAS_STATUS_INVALID_VALUE, clip::concat(reason...)};
}

template <class... Parts>
[[noreturn]] void not_supported(const Parts&... reason) {
  throw Refusal{CUBLAS_STATUS_NOT_SUPPORTED, clip::concat(reason...)};
}

struct Layout {
  cudaDataType_t type;
  int64_t rows;
  int64_t columns;
  int64_t stride;  ///< the leading dimension
};

struct Description {
  cublasOperation_t transpose_a = CUBLAS_OP_N;
  cublasOperation_t transpose_b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  int32_t bias_type = -1;  ///< D's
};

struct Problem {
  int64_t m, n, k;
  Layout a, b, c, d;
  Description description;
};

struct Operands {
  const void* a;
  const void* b;
  const void* c;
  void* d;
  void* workspace;
  uint64_t workspace_bytes;
  float alpha, beta;
};

inline int64_t size_of(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

/// Refuses shapes, data types and leading dimensions that do not fit each other.
Problem problem_of(const Description& description, const Layout& a, const Layout& b,
                   const Layout& c, const Layout& d);
/// What an algorithm was chosen for.
uint64_t digest_of(const Problem& problem);
void multiply(const Problem& problem, const Operands& operands);

}  // namespace cudasim
