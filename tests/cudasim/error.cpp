#include "tests/cudasim/error.h"

namespace cudasim {
namespace {

struct LastError {
  cudaError_t pending = cudaSuccess;  ///< for cudaGetLastError
  cudaError_t code = cudaSuccess;     ///< what `sentence` is about
  std::string sentence;
};

LastError& last_error() {
  thread_local LastError error;
  return error;
}

const char* general_sentence(cudaError_t code) {
  switch (code) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidMemcpyDirection:
      return "invalid copy direction for memcpy";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorNotReady:
      return "device not ready";
    default:
      return "error of the simulated runtime";
  }
}

}  // namespace

cudaError_t fail(cudaError_t code, const std::string& reason) {
  last_error() = {code, code, std::string(general_sentence(code)) + ": " + reason};
  return code;
}

std::recursive_mutex& runtime_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

}  // namespace cudasim

cudaError_t cudaGetLastError() {
  const cudaError_t code = cudasim::last_error().pending;
  cudasim::last_error().pending = cudaSuccess;
  return code;
}

cudaError_t cudaPeekAtLastError() { return cudasim::last_error().pending; }

const char* cudaGetErrorString(cudaError_t code) {
  const auto& last = cudasim::last_error();
  return code != cudaSuccess && code == last.code ? last.sentence.c_str()
                                                  : cudasim::general_sentence(code);
}

const char* cudaGetErrorName(cudaError_t code) {
  switch (code) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidMemcpyDirection:
      return "cudaErrorInvalidMemcpyDirection";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    default:
      return "cudaErrorUnknown";
  }
}
