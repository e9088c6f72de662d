#include <cstdlib>
#include <string_view>

#include "cuda/check.h"
#include "engine/check.h"

namespace clip {

void check_cuda(cudaError_t code, const char* what) {
  CLIP_CHECK(code == cudaSuccess, "[", what, "] CUDA: ", cudaGetErrorString(code));
}

void check_cublas(cublasStatus_t code, const char* what) {
  CLIP_CHECK(code == CUBLAS_STATUS_SUCCESS, "[", what, "] cuBLAS: ", cublasLtGetStatusString(code));
}

void wait_if_asked(cudaStream_t stream, const char* what) {
  static const bool asked = [] {
    const char* value = std::getenv("CLIP_CUDA_SYNC");
    return value != nullptr && std::string_view(value) == "1";
  }();
  if (asked) check_cuda(cudaStreamSynchronize(stream), what);
}

}  // namespace clip
