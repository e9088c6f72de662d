// The kernel interface: everything a device must be able to do. A forgotten kernel does not
// compile.
//
// Conventions. Outputs first, then inputs, then sizes. Kernels trust their arguments: shapes are
// checked once, by the op in autograd/. Float tensors of one call share one dtype: F32, BF16, or F64,
// which a GPU only stores and converts. With BF16 these are F32: mean, rstd, inverse_norm,
// log_sum_exp; BatchNorm's moments, statistics and running statistics; column sums and every gradient
// of a parameter (dweight, dbias, dtable, dpositions, dclass_token, ...); the features after the
// projections, l2_normalize and the loss; what AdamW reads and writes. matmul then takes BF16 factors
// into a BF16 or an F32 c (a single F32 factor is rounded to BF16). Kernels add up in at least F32.
// An undefined Tensor means "not wanted" for outputs and "absent" for inputs. Backward kernels write
// or add, as the Accumulate beside each output says. Every sum has an order that depends on sizes
// alone (segments of kSegmentRows rows; of a multiple for BatchNorm on a GPU, as the number of rows
// says), never on the number of threads.
//
// Letters: N sequences or images, R rows (tokens of a packed batch), C width, H heads, D head size,
// V vocabulary, P patches, E embedding size.
#pragma once

#include <memory>
#include <string>

#include "engine/tensor.h"

namespace clip {

enum class Accumulate { kNo, kYes };  ///< write the result, or add to what is there
enum class Transpose { kNo, kYes };
enum class Gelu { kQuick, kErf };  ///< x sigmoid(1.702 x), or x Phi(x)
enum class Causal { kNo, kYes };
enum class Relu { kNo, kYes };

/// Rows summed as one; partial sums are then added in the order of their segments.
inline constexpr int64_t kSegmentRows = 256;

/// Columns [first, first + count) of a row-major matrix: one of q, k, v inside a wider product.
struct Columns {
  Tensor matrix;  ///< [rows, width]
  int64_t first = 0;
  int64_t count = 0;
};

/// Which rows form a sequence. Sequence i has query rows [query_offsets[i], query_offsets[i + 1])
/// and key rows [key_offsets[i], key_offsets[i + 1]).
struct Sequences {
  Tensor query_offsets;  ///< I32 [N + 1]
  Tensor key_offsets;    ///< I32 [N + 1]
  int64_t max_queries = 0;
  int64_t max_keys = 0;
};

struct AttentionOptions {
  int64_t heads = 1;
  Causal causal = Causal::kNo;  ///< query row i of a sequence sees key rows 0 ... i of it
};

/// The buffers of a BatchNorm: what evaluation normalises with. No gradient, no optimizer.
struct RunningStatistics {
  Tensor mean, variance;  ///< [C]; the variance is the unbiased one
  Tensor batches;         ///< [], how many batches they have seen
};

struct MatmulOptions {
  double alpha = 1.0;
  Accumulate accumulate = Accumulate::kNo;
};

struct AdamWOptions {
  double lr = 0;
  double beta1 = 0.9;
  double beta2 = 0.98;
  double eps = 1e-6;
  double weight_decay = 0.2;
  double max_norm = 0;  ///< what the gradient's norm is clipped to; 0: it is not
};

/// What one step of AdamW multiplies with, kept where the parameters are so that nobody waits for
/// it: F64 [kAdamWScalars], all zero before the first step.
enum AdamWScalar : int64_t {
  kUpdates,         ///< updates done, this one included
  kSkips,           ///< steps left out because the gradient's norm was not finite
  kIsSkipped,       ///< 1 if this step is
  kGradientFactor,  ///< min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_
  kStepSize,        ///< lr / (1 - beta1^updates)
  kRootScale,       ///< sqrt(1 - beta2^updates)
  kAdamWScalars
};

class Backend {
 public:
  virtual ~Backend() = default;

  // ---- Memory -----------------------------------------------------------------------------------
  virtual Device device() const = 0;
  virtual std::string name() const = 0;  ///< the processor's or GPU's, as its maker calls it
  /// What products are fastest in: BF16 where the device has instructions for it, else F32.
  virtual DType fast_dtype() const = 0;
  virtual void* allocate(
      int64_t bytes) = 0;  ///< 64-byte aligned; throws clip::Error if none is left
  virtual void release(void* address, int64_t bytes) noexcept = 0;
  virtual void copy_from_host(void* to, const void* from, int64_t bytes) = 0;
  virtual void copy_to_host(void* to, const void* from, int64_t bytes) = 0;
  /// Copies from the host beside the computation, which waits for it from here on: the pictures of
  /// the next batch. `to` lives as long as the training and takes turns with a second buffer: what
  /// is queued may read it if it was queued before the last upload, and not if after.
  virtual void upload(Tensor& to, const void* host) = 0;
  virtual void copy(Tensor& to, const Tensor& from) = 0;     ///< same shape and dtype
  virtual void convert(Tensor& to, const Tensor& from) = 0;  ///< between F32, F64 and BF16
  virtual void fill_zero(Tensor& x) = 0;
  virtual void add(Tensor& y, const Tensor& x) = 0;  ///< y += x
  virtual void synchronize() = 0;

  // ---- Products ---------------------------------------------------------------------------------
  /// c [M, N] = alpha op(a) op(b) (+ c), row-major. K = 0 is allowed.
  virtual void matmul(Tensor& c, const Tensor& a, Transpose transpose_a, const Tensor& b,
                      Transpose transpose_b, const MatmulOptions& options) = 0;
  /// From begin to end the weight [N, K], F32 or BF16, does not change: products with its transpose
  /// may read a copy of it in an order that suits the device.
  virtual void begin_constant(const Tensor& weight) = 0;
  virtual void end_constant(const Tensor& weight) noexcept = 0;
  virtual void add_bias(Tensor& y, const Tensor& bias) = 0;  ///< y [R, C] += bias [C]
  virtual void column_sums(Tensor& sums, const Tensor& x,
                           Accumulate accumulate) = 0;  ///< [C] of x [R, C]

  // ---- Normalisation ----------------------------------------------------------------------------
  /// y = (x - mean) rstd weight + bias per row of x [R, C]; mean, rstd [R] are kept for the
  /// backward kernel. The variance is the population's, about the mean, in a second pass.
  virtual void layer_norm_forward(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x,
                                  const Tensor& weight, const Tensor& bias, double eps) = 0;
  /// dx (+)= gradient through the normalisation; dweight, dbias [C] (+)= column sums.
  virtual void layer_norm_backward(Tensor& dx, Tensor& dweight, Tensor& dbias, const Tensor& dy,
                                   const Tensor& x, const Tensor& mean, const Tensor& rstd,
                                   const Tensor& weight, Accumulate to_dx, Accumulate to_dweight,
                                   Accumulate to_dbias) = 0;
  /// sum = residual + x + x_bias, y = layer norm of sum. The residual stream is read and written
  /// once.
  virtual void bias_residual_layer_norm_forward(Tensor& sum, Tensor& y, Tensor& mean, Tensor& rstd,
                                                const Tensor& residual, const Tensor& x,
                                                const Tensor& x_bias, const Tensor& weight,
                                                const Tensor& bias, double eps) = 0;
  /// dtotal = dsum (absent: 0) + gradient through the normalisation: the gradient of residual and
  /// of x alike; it may be dsum itself. dx_bias [C] (+)= column sums of dtotal.
  virtual void bias_residual_layer_norm_backward(Tensor& dtotal, Tensor& dx_bias, Tensor& dweight,
                                                 Tensor& dbias, const Tensor& dsum,
                                                 const Tensor& dy, const Tensor& sum,
                                                 const Tensor& mean, const Tensor& rstd,
                                                 const Tensor& weight, Accumulate to_dx_bias,
                                                 Accumulate to_dweight, Accumulate to_dbias) = 0;
  /// y = x / max(|x|, 1e-12) per row; inverse_norm [R] is kept.
  virtual void l2_normalize_forward(Tensor& y, Tensor& inverse_norm, const Tensor& x) = 0;
  virtual void l2_normalize_backward(Tensor& dx, const Tensor& dy, const Tensor& y,
                                     const Tensor& inverse_norm, Accumulate to_dx) = 0;

  // ---- Activation -------------------------------------------------------------------------------
  /// y = gelu(x + bias) for x [R, C]; backward recomputes the activation from x.
  virtual void bias_gelu_forward(Tensor& y, const Tensor& x, const Tensor& bias, Gelu kind) = 0;
  virtual void bias_gelu_backward(Tensor& dx, Tensor& dbias, const Tensor& dy, const Tensor& x,
                                  const Tensor& bias, Gelu kind, Accumulate to_dx,
                                  Accumulate to_dbias) = 0;

  // ---- Attention --------------------------------------------------------------------------------
  /// y [Rq, H D] = softmax(q kᵀ / sqrt(D)) v per sequence and head; log_sum_exp [H, Rq] (of the
  /// scaled scores) is kept in place of the scores.
  virtual void attention_forward(Tensor& y, Tensor& log_sum_exp, const Columns& q, const Columns& k,
                                 const Columns& v, const Sequences& sequences,
                                 const AttentionOptions& options) = 0;
  /// dq, dk, dv are columns like q, k, v. They are written, or added to.
  virtual void attention_backward(Columns& dq, Columns& dk, Columns& dv, const Tensor& dy,
                                  const Tensor& y, const Tensor& log_sum_exp, const Columns& q,
                                  const Columns& k, const Columns& v, const Sequences& sequences,
                                  const AttentionOptions& options, Accumulate to_dq,
                                  Accumulate to_dkv) = 0;

  // ---- Towers' ends -----------------------------------------------------------------------------
  /// patches [N P, 3 K K] of images U8 [N, S, S, 3]: (pixel / 255 - mean) / std, each patch in
  /// (channel, y, x) order.
  virtual void extract_patches(Tensor& patches, const Tensor& images, int64_t patch_size,
                               const float mean[3], const float std[3]) = 0;
  /// y [N (P + 1), C]: the class token, then the image's P rows of x [N P, C], plus positions [P +
  /// 1, C].
  virtual void assemble_tokens_forward(Tensor& y, const Tensor& x, const Tensor& class_token,
                                       const Tensor& positions) = 0;
  virtual void assemble_tokens_backward(Tensor& dx, Tensor& dclass_token, Tensor& dpositions,
                                        const Tensor& dy, Accumulate to_dx,
                                        Accumulate to_dclass_token, Accumulate to_dpositions) = 0;
  /// y [R, C] = table[tokens[r]] + positions[place of r in its sequence]; offsets I32 [N + 1].
  virtual void token_embedding_forward(Tensor& y, const Tensor& table, const Tensor& positions,
                                       const Tensor& tokens, const Tensor& offsets) = 0;
  /// dtable [V, C], dpositions [L, C]. `order` I32 [R] lists the rows by token id (ties: by row):
  /// each table row is summed in that order.
  virtual void token_embedding_backward(Tensor& dtable, Tensor& dpositions, const Tensor& dy,
                                        const Tensor& tokens, const Tensor& offsets,
                                        const Tensor& order, Accumulate to_dtable,
                                        Accumulate to_dpositions) = 0;
  /// y [M, C] = x[rows[m]]; rows I32 [M], no row twice.
  virtual void gather_rows_forward(Tensor& y, const Tensor& x, const Tensor& rows) = 0;
  virtual void gather_rows_backward(Tensor& dx, const Tensor& dy, const Tensor& rows,
                                    Accumulate to_dx) = 0;

  // ---- Residual networks: maps [N, H, W, C], channels last --------------------------------------
  /// columns [N H' W', 9 C]: the 3 x 3 windows of x [N, H, W, C] in (y, x, channel) order, centred
  /// at every `stride`-th pixel, zeros outside; H' = (H - 1) / stride + 1, likewise W'.
  virtual void im2col(Tensor& columns, const Tensor& x, int64_t stride) = 0;
  /// dx (+)= for each pixel the sum of its places in dcolumns
  virtual void col2im(Tensor& dx, const Tensor& dcolumns, int64_t stride, Accumulate to_dx) = 0;
  /// y [A, N, M] (+)= the A matrices of x [A, M, N] transposed
  virtual void transpose_matrices(Tensor& y, const Tensor& x, Accumulate to_y) = 0;
  /// moments [2, C]: the mean of each column of x [R, C], and the sum of squared deviations from it
  virtual void column_moments(Tensor& moments, const Tensor& x) = 0;
  /// statistics [2, C]: mean and 1 / sqrt(population variance + eps) over the rows of all `parts`
  /// [W, 2, C], the column_moments of part_rows rows each. `running` (its tensors may be undefined)
  /// moves by `momentum` towards the mean and the unbiased variance.
  virtual void batch_norm_statistics(Tensor& statistics, RunningStatistics& running,
                                     const Tensor& parts, int64_t part_rows, double eps,
                                     double momentum) = 0;
  /// y = (x - mean) rstd weight + bias + residual, with ReLU its positive part. bias [C] and
  /// residual [R, C] may be absent.
  virtual void batch_norm_relu_forward(Tensor& y, const Tensor& x, const Tensor& residual,
                                       const Tensor& statistics, const Tensor& weight,
                                       const Tensor& bias, Relu relu) = 0;
  /// sums [2, C] of g x^ and of g over the rows, where x^ = (x - mean) rstd and g = dy, with ReLU
  /// only where y is positive. y absent: no ReLU.
  virtual void batch_norm_relu_sums(Tensor& sums, const Tensor& dy, const Tensor& x,
                                    const Tensor& y, const Tensor& statistics) = 0;
  /// dx (+)= weight rstd (g - sum(g) / rows - x^ sum(g x^) / rows), with `sums` over all `rows` that
  /// were normalised together; sums absent: the statistics are constants. dresidual = g.
  virtual void batch_norm_relu_backward(Tensor& dx, Tensor& dresidual, const Tensor& dy,
                                        const Tensor& x, const Tensor& y, const Tensor& statistics,
                                        const Tensor& weight, const Tensor& sums, int64_t rows,
                                        Accumulate to_dx) = 0;
  /// y [N, H', W', C]: means over windows of x [N, H, W, C] that do not overlap, H / H' by W / W'
  virtual void avg_pool_forward(Tensor& y, const Tensor& x) = 0;
  virtual void avg_pool_backward(Tensor& dx, const Tensor& dy, Accumulate to_dx) = 0;
  /// y [N (P + 1), C]: the mean of an image's P rows of x [N P, C], then these rows, plus positions
  /// [P + 1, C]
  virtual void mean_token_forward(Tensor& y, const Tensor& x, const Tensor& positions) = 0;
  virtual void mean_token_backward(Tensor& dx, Tensor& dpositions, const Tensor& dy,
                                   Accumulate to_dx, Accumulate to_dpositions) = 0;

  // ---- Loss -------------------------------------------------------------------------------------
  // A tile holds cosines [N, M] of local rows 0 ... N - 1 with global columns first_column ...
  // first_column + M - 1. Local row i is global row first_row + i; its pair is the column of the
  // same number.
  /// Folds a tile of s cos, s = exp(logit_scale), into the running row_max and row_sum [N] (kNo:
  /// they begin with it), and stores s cos of the pairs it holds in `diagonal` [N].
  virtual void clip_loss_tile_forward(Tensor& row_max, Tensor& row_sum, Tensor& diagonal,
                                      const Tensor& cosines, const Tensor& logit_scale,
                                      int64_t first_row, int64_t first_column,
                                      Accumulate to_rows) = 0;
  /// log_sum_exp [N] = row_max + ln(row_sum)
  virtual void clip_loss_log_sum_exp(Tensor& log_sum_exp, const Tensor& row_max,
                                     const Tensor& row_sum) = 0;
  /// loss [] = sum over rows of (image_lse + text_lse - 2 diagonal) / (2 G)
  virtual void clip_loss_reduce(Tensor& loss, const Tensor& image_lse, const Tensor& text_lse,
                                const Tensor& diagonal, int64_t global_rows) = 0;
  /// Turns cosines into their gradients in place: dloss s / (2 G) (exp(s cos - row_lse) + exp(s cos
  /// - column_lse)
  /// - 2 [row = column]). row_dots [N] (+)= sum over the tile's columns of gradient times cosine.
  virtual void clip_loss_tile_backward(Tensor& cosines, Tensor& row_dots, const Tensor& row_lse,
                                       const Tensor& column_lse, const Tensor& logit_scale,
                                       const Tensor& dloss, int64_t first_row, int64_t first_column,
                                       int64_t global_rows, Accumulate to_row_dots) = 0;
  /// With l = s cos + b, b = logit_bias, and z = 1 for the row's pair, -1 for any other column:
  /// row_losses [N] (+)= sum over the tile's columns of ln(1 + exp(-z l)) / G
  virtual void siglip_loss_tile_forward(Tensor& row_losses, const Tensor& cosines,
                                        const Tensor& logit_scale, const Tensor& logit_bias,
                                        int64_t first_row, int64_t first_column,
                                        int64_t global_rows, Accumulate to_row_losses) = 0;
  /// Turns cosines into their gradients in place: -dloss s / G z sigmoid(-z l). Over the tile's
  /// columns, row_dots [N] (+)= sum of gradient times cosine, row_sums [N] (+)= sum of gradient / s;
  /// both or neither are wanted.
  virtual void siglip_loss_tile_backward(Tensor& cosines, Tensor& row_dots, Tensor& row_sums,
                                         const Tensor& logit_scale, const Tensor& logit_bias,
                                         const Tensor& dloss, int64_t first_row,
                                         int64_t first_column, int64_t global_rows,
                                         Accumulate to_rows) = 0;
  /// total [] (+)= sum of x in order of segments
  virtual void sum(Tensor& total, const Tensor& x, Accumulate to_total) = 0;

  // ---- Optimizer --------------------------------------------------------------------------------
  /// total F64 [] = sum of squares of x, any float dtype
  virtual void sum_of_squares(Tensor& total, const Tensor& x) = 0;
  /// The next step's scalars from the ones before and the gradients' sum of squares, F64 [].
  virtual void adamw_scalars(Tensor& scalars, const Tensor& sum_of_squares,
                             const AdamWOptions& options) = 0;
  /// One AdamW step with decoupled decay over flat buffers; decays U8 [numel / kParameterBlock]
  /// says per block whether weight_decay applies. rounded_values (BF16, or absent) become the new
  /// values, rounded. Gradients are left as they are; a skipped step leaves everything.
  virtual void adamw(Tensor& values, Tensor& rounded_values, Tensor& first_moments,
                     Tensor& second_moments, const Tensor& gradients, const Tensor& decays,
                     const Tensor& scalars, const AdamWOptions& options) = 0;
  /// x [] = min(max(x, low), high)
  virtual void clamp(Tensor& x, double low, double high) = 0;
};

/// Parameters start at multiples of this many elements in their flat buffer.
inline constexpr int64_t kParameterBlock = 1024;

/// The processor; one object for the whole program.
Backend& cpu_backend();

/// A GPU; throws clip::Error in one sentence where this build or machine has none.
std::unique_ptr<Backend> make_cuda_backend(int index);

}  // namespace clip
