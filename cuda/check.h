// One check function for each library: what failed, and where.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

namespace clip {

/// throws clip::Error "[what] CUDA: <the runtime's own sentence>" unless the code is cudaSuccess
void check_cuda(cudaError_t code, const char* what);
void check_cublas(cublasStatus_t code, const char* what);

/// Called after every kernel and every product that is put into a stream. With CLIP_CUDA_SYNC=1 in
/// the environment it waits, so that a fault that comes to light while the work runs is reported
/// under its name instead of that of a later call; otherwise it does nothing. The environment is
/// read once.
void wait_if_asked(cudaStream_t stream, const char* what);

}  // namespace clip
