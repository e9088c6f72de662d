// AdamW over flat buffers, in the order of operations of engine/cpu/adamw.cpp.
#include <cmath>

#include "cuda/cuda_backend.h"
#include "cuda/launch_shapes.h"

namespace clip {
namespace {

/// The step's scalars, computed in F64 and rounded once.
struct Step {
  float gradient_factor;
  float beta1, one_minus_beta1;
  float beta2, one_minus_beta2;
  float step_size;   // lr / (1 - beta1^step)
  float root_scale;  // sqrt(1 - beta2^step)
  float eps;
  float decayed;  // what decay leaves of a value: 1 - lr weight_decay
};

Step step_of(const AdamWOptions& options) {
  const auto step = static_cast<double>(options.step);
  const double correction1 = 1.0 - std::pow(options.beta1, step);
  const double correction2 = 1.0 - std::pow(options.beta2, step);
  return {static_cast<float>(options.gradient_factor),
          static_cast<float>(options.beta1),
          static_cast<float>(1.0 - options.beta1),
          static_cast<float>(options.beta2),
          static_cast<float>(1.0 - options.beta2),
          static_cast<float>(options.lr / correction1),
          static_cast<float>(std::sqrt(correction2)),
          static_cast<float>(options.eps),
          static_cast<float>(1.0 - options.lr * options.weight_decay)};
}

static_assert(kParameterBlock == kBlockThreads * kVector<float>,
              "one block for each parameter block");

__global__ void __launch_bounds__(kBlockThreads)
    adamw_kernel(float* values, __nv_bfloat16* rounded_values, float* first_moments,
                 float* second_moments, const float* gradients, const uint8_t* decays, Step step) {
  constexpr int kCount = kVector<float>;
  const int64_t at = grid_thread() * kCount;
  const float keep = decays[blockIdx.x] != 0 ? step.decayed : 1.0f;
  float p[kCount], m[kCount], v[kCount], g[kCount];
  load_vector(p, values + at, kCount);
  load_vector(m, first_moments + at, kCount);
  load_vector(v, second_moments + at, kCount);
  load_vector(g, gradients + at, kCount);
  for (int i = 0; i < kCount; ++i) {
    g[i] *= step.gradient_factor;
    m[i] = step.beta1 * m[i] + step.one_minus_beta1 * g[i];
    v[i] = step.beta2 * v[i] + step.one_minus_beta2 * g[i] * g[i];
    const float denominator = sqrtf(v[i]) / step.root_scale + step.eps;
    p[i] = p[i] * keep - step.step_size * (m[i] / denominator);
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

void CudaBackend::adamw(Tensor& values, Tensor& rounded_values, Tensor& first_moments,
                        Tensor& second_moments, const Tensor& gradients, const Tensor& decays,
                        const AdamWOptions& options) {
  if (values.numel() == 0) return;
  launch("adamw", adamw_kernel, blocks(values.numel() / kParameterBlock), compute_stream(),
         values.data<float>(), rounded_values ? rounded_values.data<__nv_bfloat16>() : nullptr,
         first_moments.data<float>(), second_moments.data<float>(), gradients.data<float>(),
         decays.data<uint8_t>(), step_of(options));
}

}  // namespace clip
