// A GPU: every kernel of engine/backend.h as CUDA, products by cuBLASLt. One file per op family
// implements these members: backend.cu, matmul.cu, layer_norm.cu, gelu.cu, attention.cu, ...
//
// Everything is put on one compute stream in the order of the calls, so a block of memory may be
// reused as soon as its tensor is gone. Another stream may touch a tensor only while somebody holds
// it, until the compute stream waits for that stream: the target of uploads lives as long as the
// training, and a communicator holds its arguments until wait().
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <memory>
#include <string>

#include "engine/backend.h"

namespace clip {

template <>
inline constexpr DType kDTypeOf<__nv_bfloat16> = DType::kBF16;

/// Calls body with a zero of the C++ type of an activation dtype: for_cuda_float("op", x.dtype(),
/// [&]<class T>(T) { ... }).
template <class Body>
void for_cuda_float(const char* op, DType dtype, const Body& body) {
  if (dtype == DType::kF32) {
    body(float{});
  } else if (dtype == DType::kBF16) {
    body(__nv_bfloat16{});
  } else {
    throw Error(concat("[", op, "] the GPU computes in f32 or bf16, got ", dtype));
  }
}

class CublasLt;
class DeviceMemory;
class HostStaging;
class Uploads;

class CudaBackend final : public Backend {
 public:
  /// index    of the GPU, checked by make_cuda_backend
  CudaBackend(int index, std::string name, int compute_major);
  ~CudaBackend() override;
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  /// The stream of all kernels, copies and freed memory; makes this GPU the calling thread's.
  cudaStream_t compute_stream() const;

  // ---- Memory ----
  Device device() const override;
  std::string name() const override { return name_; }
  DType fast_dtype() const override { return DType::kBF16; }
  void* allocate(int64_t bytes) override;
  void release(void* address, int64_t bytes) noexcept override;
  void copy_from_host(void* to, const void* from, int64_t bytes) override;
  void copy_to_host(void* to, const void* from, int64_t bytes) override;
  void upload(Tensor& to, const void* host) override;
  void copy(Tensor& to, const Tensor& from) override;
  void convert(Tensor& to, const Tensor& from) override;
  void fill_zero(Tensor& x) override;
  void add(Tensor& y, const Tensor& x) override;
  void synchronize() override;

  // ---- Products ----
  void matmul(Tensor& c, const Tensor& a, Transpose transpose_a, const Tensor& b,
              Transpose transpose_b, const MatmulOptions& options) override;
  void begin_constant(const Tensor&) override {}  // cuBLASLt takes weights as they are
  void end_constant(const Tensor&) noexcept override {}
  void add_bias(Tensor& y, const Tensor& bias) override;
  void column_sums(Tensor& sums, const Tensor& x, Accumulate accumulate) override;

  // ---- Normalisation ----
  void layer_norm_forward(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x,
                          const Tensor& weight, const Tensor& bias, double eps) override;
  void layer_norm_backward(Tensor& dx, Tensor& dweight, Tensor& dbias, const Tensor& dy,
                           const Tensor& x, const Tensor& mean, const Tensor& rstd,
                           const Tensor& weight, Accumulate to_dx, Accumulate to_dweight,
                           Accumulate to_dbias) override;
  void bias_residual_layer_norm_forward(Tensor& sum, Tensor& y, Tensor& mean, Tensor& rstd,
                                        const Tensor& residual, const Tensor& x,
                                        const Tensor& x_bias, const Tensor& weight,
                                        const Tensor& bias, double eps) override;
  void bias_residual_layer_norm_backward(Tensor& dtotal, Tensor& dx_bias, Tensor& dweight,
                                         Tensor& dbias, const Tensor& dsum, const Tensor& dy,
                                         const Tensor& sum, const Tensor& mean, const Tensor& rstd,
                                         const Tensor& weight, Accumulate to_dx_bias,
                                         Accumulate to_dweight, Accumulate to_dbias) override;
  void l2_normalize_forward(Tensor& y, Tensor& inverse_norm, const Tensor& x) override;
  void l2_normalize_backward(Tensor& dx, const Tensor& dy, const Tensor& y,
                             const Tensor& inverse_norm, Accumulate to_dx) override;

  // ---- Activation ----
  void bias_gelu_forward(Tensor& y, const Tensor& x, const Tensor& bias, Gelu kind) override;
  void bias_gelu_backward(Tensor& dx, Tensor& dbias, const Tensor& dy, const Tensor& x,
                          const Tensor& bias, Gelu kind, Accumulate to_dx,
                          Accumulate to_dbias) override;

  // ---- Attention ----
  void attention_forward(Tensor& y, Tensor& log_sum_exp, const Columns& q, const Columns& k,
                         const Columns& v, const Sequences& sequences,
                         const AttentionOptions& options) override;
  void attention_backward(Columns& dq, Columns& dk, Columns& dv, const Tensor& dy, const Tensor& y,
                          const Tensor& log_sum_exp, const Columns& q, const Columns& k,
                          const Columns& v, const Sequences& sequences,
                          const AttentionOptions& options, Accumulate to_dq,
                          Accumulate to_dkv) override;

  // ---- Towers' ends ----
  void extract_patches(Tensor& patches, const Tensor& images, int64_t patch_size,
                       const float mean[3], const float std[3]) override;
  void assemble_tokens_forward(Tensor& y, const Tensor& x, const Tensor& class_token,
                               const Tensor& positions) override;
  void assemble_tokens_backward(Tensor& dx, Tensor& dclass_token, Tensor& dpositions,
                                const Tensor& dy, Accumulate to_dx, Accumulate to_dclass_token,
                                Accumulate to_dpositions) override;
  void token_embedding_forward(Tensor& y, const Tensor& table, const Tensor& positions,
                               const Tensor& tokens, const Tensor& offsets) override;
  void token_embedding_backward(Tensor& dtable, Tensor& dpositions, const Tensor& dy,
                                const Tensor& tokens, const Tensor& offsets, const Tensor& order,
                                Accumulate to_dtable, Accumulate to_dpositions) override;
  void gather_rows_forward(Tensor& y, const Tensor& x, const Tensor& rows) override;
  void gather_rows_backward(Tensor& dx, const Tensor& dy, const Tensor& rows,
                            Accumulate to_dx) override;

  // ---- Residual networks ----
  void im2col(Tensor& columns, const Tensor& x, int64_t stride) override;
  void col2im(Tensor& dx, const Tensor& dcolumns, int64_t stride, Accumulate to_dx) override;
  void transpose_matrices(Tensor& y, const Tensor& x, Accumulate to_y) override;
  void column_moments(Tensor& moments, const Tensor& x) override;
  void batch_norm_statistics(Tensor& statistics, RunningStatistics& running, const Tensor& parts,
                             int64_t part_rows, double eps, double momentum) override;
  void batch_norm_relu_forward(Tensor& y, const Tensor& x, const Tensor& residual,
                               const Tensor& statistics, const Tensor& weight, const Tensor& bias,
                               Relu relu) override;
  void batch_norm_relu_sums(Tensor& sums, const Tensor& dy, const Tensor& x, const Tensor& y,
                            const Tensor& statistics) override;
  void batch_norm_relu_backward(Tensor& dx, Tensor& dresidual, const Tensor& dy, const Tensor& x,
                                const Tensor& y, const Tensor& statistics, const Tensor& weight,
                                const Tensor& sums, int64_t rows, Accumulate to_dx) override;
  void avg_pool_forward(Tensor& y, const Tensor& x) override;
  void avg_pool_backward(Tensor& dx, const Tensor& dy, Accumulate to_dx) override;
  void mean_token_forward(Tensor& y, const Tensor& x, const Tensor& positions) override;
  void mean_token_backward(Tensor& dx, Tensor& dpositions, const Tensor& dy, Accumulate to_dx,
                           Accumulate to_dpositions) override;

  // ---- Loss ----
  void clip_loss_tile_forward(Tensor& row_max, Tensor& row_sum, Tensor& diagonal,
                              const Tensor& cosines, const Tensor& logit_scale, int64_t first_row,
                              int64_t first_column, Accumulate to_rows) override;
  void clip_loss_log_sum_exp(Tensor& log_sum_exp, const Tensor& row_max,
                             const Tensor& row_sum) override;
  void clip_loss_reduce(Tensor& loss, const Tensor& image_lse, const Tensor& text_lse,
                        const Tensor& diagonal, int64_t global_rows) override;
  void clip_loss_tile_backward(Tensor& cosines, Tensor& row_dots, const Tensor& row_lse,
                               const Tensor& column_lse, const Tensor& logit_scale,
                               const Tensor& dloss, int64_t first_row, int64_t first_column,
                               int64_t global_rows, Accumulate to_row_dots) override;
  void siglip_loss_tile_forward(Tensor& row_losses, const Tensor& cosines,
                                const Tensor& logit_scale, const Tensor& logit_bias,
                                int64_t first_row, int64_t first_column, int64_t global_rows,
                                Accumulate to_row_losses) override;
  void siglip_loss_tile_backward(Tensor& cosines, Tensor& row_dots, Tensor& row_sums,
                                 const Tensor& logit_scale, const Tensor& logit_bias,
                                 const Tensor& dloss, int64_t first_row, int64_t first_column,
                                 int64_t global_rows, Accumulate to_rows) override;
  void sum(Tensor& total, const Tensor& x, Accumulate to_total) override;

  // ---- Optimizer ----
  void sum_of_squares(Tensor& total, const Tensor& x) override;
  void adamw_scalars(Tensor& scalars, const Tensor& sum_of_squares,
                     const AdamWOptions& options) override;
  void adamw(Tensor& values, Tensor& rounded_values, Tensor& first_moments, Tensor& second_moments,
             const Tensor& gradients, const Tensor& decays, const Tensor& scalars,
             const AdamWOptions& options) override;
  void clamp(Tensor& x, double low, double high) override;

 private:
  int index_;
  std::string name_;
  cudaStream_t compute_ = nullptr;
  std::unique_ptr<DeviceMemory> memory_;
  std::unique_ptr<HostStaging> staging_;
  std::unique_ptr<Uploads> uploads_;  // made by the first
  std::unique_ptr<CublasLt> cublas_;
};

}  // namespace clip
