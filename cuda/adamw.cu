// AdamW over flat buffers, in the order of operations of engine/cpu/adamw.cpp.
#include "cuda/cuda_backend.h"
#include "cuda/launch_shapes.h"
#include "engine/scalar_math.h"

namespace clip {
namespace {

/// What the options say of every step, rounded once.
struct Options {
  float beta1, one_minus_beta1;
  float beta2, one_minus_beta2;
  float eps;
  float decayed;  // what decay leaves of a value: 1 - lr weight_decay
};

Options options_of(const AdamWOptions& options) {
  return {static_cast<float>(options.beta1),
          static_cast<float>(1.0 - options.beta1),
          static_cast<float>(options.beta2),
          static_cast<float>(1.0 - options.beta2),
          static_cast<float>(options.eps),
          static_cast<float>(1.0 - options.lr * options.weight_decay)};
}

__global__ void adamw_scalars_kernel(double* scalars, const double* sum_of_squares,
                                     AdamWOptions options) {
  set_adamw_scalars(scalars, *sum_of_squares, options);
}

static_assert(kParameterBlock == kBlockThreads * kVector<float>,
              "one block for each parameter block");

__global__ void __launch_bounds__(kBlockThreads)
    adamw_kernel(float* values, __nv_bfloat16* rounded_values, float* first_moments,
                 float* second_moments, const float* gradients, const uint8_t* decays,
                 const double* scalars, Options options) {
  if (scalars[kIsSkipped] != 0) return;
  constexpr int kCount = kVector<float>;
  const int64_t at = grid_thread() * kCount;
  const float keep = decays[blockIdx.x] != 0 ? options.decayed : 1.0f;
  const auto factor = static_cast<float>(scalars[kGradientFactor]);
  const auto step_size = static_cast<float>(scalars[kStepSize]);
  const auto root_scale = static_cast<float>(scalars[kRootScale]);
  float p[kCount], m[kCount], v[kCount], g[kCount];
  load_vector(p, values + at, kCount);
  load_vector(m, first_moments + at, kCount);
  load_vector(v, second_moments + at, kCount);
  load_vector(g, gradients + at, kCount);
  for (int i = 0; i < kCount; ++i) {
    g[i] *= factor;
    m[i] = options.beta1 * m[i] + options.one_minus_beta1 * g[i];
    v[i] = options.beta2 * v[i] + options.one_minus_beta2 * g[i] * g[i];
    const float denominator = sqrtf(v[i]) / root_scale + options.eps;
    p[i] = p[i] * keep - step_size * (m[i] / denominator);
  }
  store_vector(values + at, p, kCount);
  store_vector(first_moments + at, m, kCount);
  store_vector(second_moments + at, v, kCount);
  if (rounded_values == nullptr) return;
  __nv_bfloat162 pairs[kCount / 2];
  for (int i = 0; i < kCount / 2; ++i) pairs[i] = __floats2bfloat162_rn(p[2 * i], p[2 * i + 1]);
  uint2 bytes;
  memcpy(&bytes, pairs, sizeof(bytes));
  *reinterpret_cast<uint2*>(rounded_values + at) = bytes;
}

}  // namespace

void CudaBackend::adamw_scalars(Tensor& scalars, const Tensor& sum_of_squares,
                                const AdamWOptions& options) {
  launch("adamw_scalars", adamw_scalars_kernel, LaunchShape{dim3(1), dim3(1)}, compute_stream(),
         scalars.data<double>(), sum_of_squares.data<double>(), options);
}

void CudaBackend::adamw(Tensor& values, Tensor& rounded_values, Tensor& first_moments,
                        Tensor& second_moments, const Tensor& gradients, const Tensor& decays,
                        const Tensor& scalars, const AdamWOptions& options) {
  if (values.numel() == 0) return;
  launch("adamw", adamw_kernel, blocks(values.numel() / kParameterBlock), compute_stream(),
         values.data<float>(), rounded_values ? rounded_values.data<__nv_bfloat16>() : nullptr,
         first_moments.data<float>(), second_moments.data<float>(), gradients.data<float>(),
         decays.data<uint8_t>(), scalars.data<double>(), options_of(options));
}

}  // namespace clip
