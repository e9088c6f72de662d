// Errors that CUDA reports by a code: the code comes back, and the sentence of cudaGetErrorString says
// what was wrong.
#pragma once

#include <cuda_runtime.h>

#include <mutex>
#include <string>

namespace cudasim {

/// Keeps the reason and the code (for cudaGetLastError) and returns the code.
cudaError_t fail(cudaError_t code, const std::string& reason);

/// Held by every entry point: the host may call from several threads.
std::recursive_mutex& runtime_mutex();

}  // namespace cudasim
