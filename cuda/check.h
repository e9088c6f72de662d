// One check function for each library: what failed, and where.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

namespace clip {

/// throws clip::Error "[what] CUDA: <the runtime's own sentence>" unless the code is cudaSuccess
void check_cuda(cudaError_t code, const char* what);
void check_cublas(cublasStatus_t code, const char* what);

}  // namespace clip
