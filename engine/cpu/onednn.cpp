#include "engine/cpu/onednn.h"

#include <omp.h>

#include <cstddef>
#include <dnnl.hpp>
#include <unordered_map>
#include <vector>

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

dnnl::engine& engine() {
  // Never destroyed: threads may outlive static objects.
  static dnnl::engine& cpu = *new dnnl::engine(dnnl::engine::kind::cpu, 0);  // NOLINT
  return cpu;
}

template <class T>
constexpr dnnl::memory::data_type kDataType = dnnl::memory::data_type::f32;
template <>
constexpr dnnl::memory::data_type kDataType<BF16> = dnnl::memory::data_type::bf16;

template <class T>
dnnl::memory::desc describe(int64_t rows, int64_t columns, Transpose transpose, int64_t ld) {
  const bool plain = transpose == Transpose::kNo;
  return {{rows, columns}, kDataType<T>, {plain ? ld : 1, plain ? 1 : ld}};
}

/// Versions 2 and 3 differ in how a primitive is described.
template <class Matmul>
typename Matmul::primitive_desc describe_product(const dnnl::memory::desc& a,
                                                 const dnnl::memory::desc& b,
                                                 const dnnl::memory::desc& c,
                                                 const dnnl::primitive_attr& attributes) {
  if constexpr (requires { typename Matmul::desc; }) {
    return {typename Matmul::desc(a, b, c), attributes, engine()};
  } else {
    return {engine(), a, b, c, attributes};
  }
}

/// Backward primitives are described with their forward one.
template <class Forward, class Backward>
typename Backward::primitive_desc describe_weight_gradient(const dnnl::memory::desc& x,
                                                           const dnnl::memory::desc& weight,
                                                           const dnnl::memory::desc& dweight,
                                                           const dnnl::memory::desc& dy,
                                                           const dnnl::primitive_attr& attributes) {
  constexpr auto kTraining = dnnl::prop_kind::forward_training;
  if constexpr (requires { typename Backward::desc; }) {
    const typename Forward::desc forward(kTraining, x, weight, dy);
    const typename Forward::primitive_desc hint(forward, engine());
    return {typename Backward::desc(x, dweight, dy), attributes, engine(), hint};
  } else {
    const typename Forward::primitive_desc hint(engine(), kTraining, x, weight, dy);
    return {engine(), x, dweight, dy, hint, attributes};
  }
}

dnnl::memory memory(const dnnl::memory::desc& size, const void* data) {
  return {size, engine(), const_cast<void*>(data)};  // NOLINT
}

/// This thread's memory for a primitive's own use: what the library would hold may not be used by
/// several primitives at once.
dnnl::memory scratchpad(const dnnl::memory::desc& size) {
  thread_local std::vector<std::byte> bytes;
  if (bytes.size() < size.get_size()) bytes.resize(size.get_size());
  return {size, engine(), bytes.data()};
}

dnnl::primitive_attr with_own_scratchpad() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

/// Runs what describe() gives, by the calling thread alone.
template <class Describe>
void run(const char* call, std::unordered_map<int, dnnl::memory> arguments,
         const Describe& describe) {
  const OneThread one_thread;
  try {
    const auto description = describe();
    arguments.emplace(DNNL_ARG_SCRATCHPAD, scratchpad(description.scratchpad_desc()));
    dnnl::stream stream(engine());
    dnnl::primitive(description).execute(stream, arguments);
    stream.wait();
  } catch (const dnnl::error& error) {
    check_onednn(error.status, call);
  }
}

/// c (+)= a b
void multiply(const dnnl::memory& a, const dnnl::memory& b, const dnnl::memory& c,
              Accumulate accumulate) {
  run("matmul", {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}}, [&] {
    dnnl::primitive_attr attributes = with_own_scratchpad();
    if (accumulate == Accumulate::kYes) {
      dnnl::post_ops add;
      add.append_sum();
      attributes.set_post_ops(add);
    }
    return describe_product<dnnl::matmul>(a.get_desc(), b.get_desc(), c.get_desc(), attributes);
  });
}

}  // namespace

void onednn_sgemm(Transpose transpose_a, Transpose transpose_b, int64_t m, int64_t n, int64_t k,
                  float alpha, const float* a, int64_t lda, const float* b, int64_t ldb, float beta,
                  float* c, int64_t ldc) {
  const OneThread one_thread;
  check_onednn(dnnl_sgemm(letter(transpose_a), letter(transpose_b), m, n, k, alpha, a, lda, b, ldb,
                          beta, c, ldc),
               "dnnl_sgemm");
}

template <class C>
void onednn_bf16_gemm(Transpose transpose_a, Transpose transpose_b, int64_t m, int64_t n, int64_t k,
                      const BF16* a, int64_t lda, const BF16* b, int64_t ldb, Accumulate accumulate,
                      C* c, int64_t ldc) {
  multiply(memory(describe<BF16>(m, k, transpose_a, lda), a),
           memory(describe<BF16>(k, n, transpose_b, ldb), b),
           memory(describe<C>(m, n, Transpose::kNo, ldc), c), accumulate);
}

template void onednn_bf16_gemm(Transpose, Transpose, int64_t, int64_t, int64_t, const BF16*,
                               int64_t, const BF16*, int64_t, Accumulate, float*, int64_t);
template void onednn_bf16_gemm(Transpose, Transpose, int64_t, int64_t, int64_t, const BF16*,
                               int64_t, const BF16*, int64_t, Accumulate, BF16*, int64_t);

void onednn_bf16_weight_gradient(int64_t m, int64_t n, int64_t k, const BF16* a, const BF16* b,
                                 float* c) {
  const auto x = describe<BF16>(k, n, Transpose::kNo, n);
  const auto dy = describe<BF16>(k, m, Transpose::kNo, m);
  const auto weight = describe<BF16>(m, n, Transpose::kNo, n);
  const auto dweight = describe<float>(m, n, Transpose::kNo, n);
  run("inner product",
      {{DNNL_ARG_SRC, memory(x, b)},
       {DNNL_ARG_DIFF_DST, memory(dy, a)},
       {DNNL_ARG_DIFF_WEIGHTS, memory(dweight, c)}},
      [&] {
        return describe_weight_gradient<dnnl::inner_product_forward,
                                        dnnl::inner_product_backward_weights>(
            x, weight, dweight, dy, with_own_scratchpad());
      });
}

struct OnednnPacked::Data {
  int64_t k, n;
  dnnl::memory matrix;
};

OnednnPacked::OnednnPacked(DType dtype, Transpose transpose_b, int64_t k, int64_t n, const void* b,
                           int64_t ldb) {
  constexpr int64_t kRows = 64;  // of the products that oneDNN is to choose the order for
  const auto chosen = [&]<class T>(T) {
    const dnnl::memory::desc any({k, n}, kDataType<T>, dnnl::memory::format_tag::any);
    dnnl::memory from = memory(describe<T>(k, n, transpose_b, ldb), b);
    dnnl::memory to(describe_product<dnnl::matmul>(describe<T>(kRows, k, Transpose::kNo, k), any,
                                                   describe<T>(kRows, n, Transpose::kNo, n), {})
                        .weights_desc(),
                    engine());
    dnnl::stream stream(engine());
    dnnl::reorder(from, to).execute(stream, from, to);
    stream.wait();
    return to;
  };
  try {
    data_.reset(new Data{k, n, dtype == DType::kBF16 ? chosen(BF16{}) : chosen(0.0f)});
  } catch (const dnnl::error& error) {
    check_onednn(error.status, "reorder");
  }
}

OnednnPacked::~OnednnPacked() = default;
OnednnPacked::OnednnPacked(OnednnPacked&&) noexcept = default;

template <class A, class C>
void OnednnPacked::multiply(int64_t m, const A* a, C* c) const {
  const auto [k, n, matrix] = *data_;
  clip::multiply(memory(describe<A>(m, k, Transpose::kNo, k), a), matrix,
                 memory(describe<C>(m, n, Transpose::kNo, n), c), Accumulate::kNo);
}

template void OnednnPacked::multiply(int64_t, const float*, float*) const;
template void OnednnPacked::multiply(int64_t, const BF16*, BF16*) const;
template void OnednnPacked::multiply(int64_t, const BF16*, float*) const;

bool onednn_has_bf16() {
  constexpr int kNeeded = dnnl_cpu_isa_avx512_core_bf16;  // a bit for each set of instructions
  return (static_cast<int>(dnnl_get_effective_cpu_isa()) & kNeeded) == kNeeded;
}

}  // namespace clip
