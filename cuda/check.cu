#include "cuda/check.h"
#include "engine/check.h"

namespace clip {

void check_cuda(cudaError_t code, const char* what) {
  CLIP_CHECK(code == cudaSuccess, "[", what, "] CUDA: ", cudaGetErrorString(code));
}

void check_cublas(cublasStatus_t code, const char* what) {
  CLIP_CHECK(code == CUBLAS_STATUS_SUCCESS, "[", what, "] cuBLAS: ", cublasLtGetStatusString(code));
}

}  // namespace clip
