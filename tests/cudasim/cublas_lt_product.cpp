#include "tests/cudasim/cublas_lt_product.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <vector>

#include "tests/cudasim/sanitizer.h"

namespace cudasim {
namespace {

std::string text_of(const Layout& l, cublasOperation_t transpose = CUBLAS_OP_N) {
  return clip::concat(l.rows, " x ", l.columns, transpose == CUBLAS_OP_T ? " transposed" : "");
}

void check_layout(const char* name, const Layout& layout) {
  if (layout.stride < layout.rows)
    refuse(name, "'s leading dimension ", layout.stride, " is less than its ", layout.rows,
           " rows");
  // Others are slow or impossible on tensor cores, depending on the version; the engine pads them.
  constexpr int64_t kUnit = 8;
  if (layout.type == CUDA_R_16BF && layout.stride % kUnit != 0)
    not_supported(name, "'s leading dimension ", layout.stride, " is no multiple of 8 in BF16");
}

float number_at(const void* data, cudaDataType_t type, int64_t index) {
  return type == CUDA_R_32F ? static_cast<const float*>(data)[index]
                            : __bfloat162float(static_cast<const __nv_bfloat16*>(data)[index]);
}

void set_number(void* data, cudaDataType_t type, int64_t index, float value) {
  if (type == CUDA_R_32F)
    static_cast<float*>(data)[index] = value;
  else
    static_cast<__nv_bfloat16*>(data)[index] = __float2bfloat16(value);
}

template <class Note>
void note_columns(const void* data, const Layout& layout, const Note& note) {
  if (!under_thread_sanitizer()) return;
  for (int64_t column = 0; column < layout.columns; ++column)
    note(static_cast<const unsigned char*>(data) + column * layout.stride * size_of(layout.type),
         static_cast<size_t>(layout.rows * size_of(layout.type)));
}

/// op(x) as F32, columns first and without gaps.
std::vector<float> packed(const void* data, const Layout& layout, cublasOperation_t transpose) {
  note_columns(data, layout, [](const void* at, size_t bytes) { note_read(at, bytes); });
  std::vector<float> result(static_cast<size_t>(layout.rows * layout.columns));
  const bool flip = transpose == CUBLAS_OP_T;
  for (int64_t column = 0; column < layout.columns; ++column)
    for (int64_t row = 0; row < layout.rows; ++row)
      result[static_cast<size_t>(flip ? row * layout.columns + column
                                      : column * layout.rows + row)] =
          number_at(data, layout.type, column * layout.stride + row);
  return result;
}

}  // namespace

Problem problem_of(const Description& description, const Layout& a, const Layout& b,
                   const Layout& c, const Layout& d) {
  const bool ta = description.transpose_a == CUBLAS_OP_T;
  const bool tb = description.transpose_b == CUBLAS_OP_T;
  Problem problem{d.rows, d.columns, ta ? a.rows : a.columns, a, b, c, d, description};
  const auto [m, n, k] = std::tie(problem.m, problem.n, problem.k);
  const bool fits = (ta ? a.columns : a.rows) == m && (tb ? b.rows : b.columns) == n &&
                    (tb ? b.columns : b.rows) == k && c.rows == m && c.columns == n;
  if (!fits)
    refuse("shapes do not fit: A ", text_of(a, description.transpose_a), ", B ",
           text_of(b, description.transpose_b), ", C ", text_of(c), ", D ", text_of(d));
  if (m < 1 || n < 1 || k < 1) refuse("m ", m, ", n ", n, ", k ", k, " must be positive");
  if (a.type != b.type || c.type != d.type || (a.type == CUDA_R_32F && d.type != CUDA_R_32F))
    not_supported("data types A ", static_cast<int>(a.type), ", B ", static_cast<int>(b.type),
                  ", C ", static_cast<int>(c.type), ", D ", static_cast<int>(d.type));
  check_layout("A", a);
  check_layout("B", b);
  check_layout("C", c);
  check_layout("D", d);
  return problem;
}

uint64_t digest_of(const Problem& p) {
  uint64_t digest = 14695981039346656037u;  // FNV-1a
  const auto add = [&](int64_t value) {
    digest = (digest ^ static_cast<uint64_t>(value)) * 1099511628211u;
  };
  for (const Layout* l : {&p.a, &p.b, &p.c, &p.d})
    for (const int64_t value : {static_cast<int64_t>(l->type), l->rows, l->columns, l->stride})
      add(value);
  add(p.description.transpose_a);
  add(p.description.transpose_b);
  add(p.description.epilogue);
  return digest;
}

void multiply(const Problem& p, const Operands& x) {
  if (x.workspace_bytes > 0) {  // two streams that share it are seen by ThreadSanitizer
    constexpr int kPoison = 0xFF;
    note_write(x.workspace, x.workspace_bytes);
    std::memset(x.workspace, kPoison, x.workspace_bytes);
  }
  const std::vector<float> a = packed(x.a, p.a, p.description.transpose_a);  // [m, k]
  const std::vector<float> b = packed(x.b, p.b, p.description.transpose_b);  // [k, n]
  if (x.beta != 0)
    note_columns(x.c, p.c, [](const void* at, size_t bytes) { note_read(at, bytes); });
  note_columns(x.d, p.d,
               [](const void* at, size_t bytes) { note_write(const_cast<void*>(at), bytes); });
  const auto bias_type =
      p.description.bias_type < 0 ? p.d.type : static_cast<cudaDataType_t>(p.description.bias_type);
  std::vector<float> sums(static_cast<size_t>(p.m));
  for (int64_t n = 0; n < p.n; ++n) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int64_t k = 0; k < p.k; ++k) {
      const float factor = b[static_cast<size_t>(n * p.k + k)];
      const float* column = a.data() + k * p.m;
      for (int64_t m = 0; m < p.m; ++m) sums[static_cast<size_t>(m)] += column[m] * factor;
    }
    for (int64_t m = 0; m < p.m; ++m) {
      float value = x.alpha * sums[static_cast<size_t>(m)];
      if (x.beta != 0) value += x.beta * number_at(x.c, p.c.type, n * p.c.stride + m);
      if (p.description.epilogue == CUBLASLT_EPILOGUE_BIAS)
        value += number_at(p.description.bias, bias_type, m);
      set_number(x.d, p.d.type, n * p.d.stride + m, value);
    }
  }
}

}  // namespace cudasim
