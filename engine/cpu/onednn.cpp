#include "engine/cpu/onednn.h"

#include <dnnl.h>
#include <omp.h>

namespace clip {
namespace {

const char* reason_of(dnnl_status_t status) {
  switch (status) {
    case dnnl_success:
      return "success";
    case dnnl_out_of_memory:
      return "out of memory";
    case dnnl_invalid_arguments:
      return "invalid arguments";
    case dnnl_unimplemented:
      return "not implemented";
    case dnnl_runtime_error:
      return "run-time error";
    default:
      return "unknown reason";
  }
}

void check_onednn(dnnl_status_t status, const char* call) {
  CLIP_CHECK(status == dnnl_success, "[onednn] ", call, " failed: ", reason_of(status), " (status ",
             static_cast<int>(status), ")");
}

char letter(Transpose transpose) { return transpose == Transpose::kYes ? 'T' : 'N'; }

/// While it lives, a parallel region started by this thread has one thread.
class OneThread {
 public:
  OneThread() { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(threads_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int threads_ = omp_get_max_threads();
};

}  // namespace

void onednn_sgemm(Transpose transpose_a, Transpose transpose_b, int64_t m, int64_t n, int64_t k,
                  float alpha, const float* a, int64_t lda, const float* b, int64_t ldb, float beta,
                  float* c, int64_t ldc) {
  const OneThread one_thread;
  check_onednn(dnnl_sgemm(letter(transpose_a), letter(transpose_b), m, n, k, alpha, a, lda, b, ldb,
                          beta, c, ldc),
               "dnnl_sgemm");
}

}  // namespace clip
