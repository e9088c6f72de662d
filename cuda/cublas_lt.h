// cuBLASLt: products of row-major matrices. Descriptors and the library's first choice of an
// algorithm are kept for each kind of product; nothing is timed, as that would change bits from run
// to run.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <compare>
#include <cstdint>
#include <map>
#include <memory>

#include "engine/backend.h"

namespace clip {

/// A row-major matrix as stored, and how it enters the product.
struct LtMatrix {
  void* data;
  DType dtype;
  int64_t rows, columns;
  int64_t stride;  ///< numbers from one row to the next, at least `columns`
  Transpose transpose = Transpose::kNo;
};

class CublasLt {
 public:
  /// workspace    bytes on the device, for the algorithms that want some; one stream may use it
  CublasLt(void* workspace, int64_t workspace_bytes);
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  /// c [M, N] = alpha op(a) op(b) + beta c with sums in F32; no size is 0, a and b share one dtype.
  void multiply(const LtMatrix& c, const LtMatrix& a, const LtMatrix& b, float alpha, float beta,
                cudaStream_t stream);

 private:
  struct Key;
  struct Plan;

  Plan& plan_for(const LtMatrix& c, const LtMatrix& a, const LtMatrix& b);
  std::unique_ptr<Plan> make_plan(const Key& key) const;

  cublasLtHandle_t handle_ = nullptr;
  void* workspace_;
  int64_t workspace_bytes_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace clip
