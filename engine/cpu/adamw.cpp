// AdamW over flat buffers, in PyTorch's order of operations (torch/optim/adamw.py, single tensor).
#include <cmath>

#include "engine/cpu/bfloat16.h"
#include "engine/cpu/cpu_backend.h"
#include "engine/parallel.h"
#include "engine/scalar_math.h"

namespace clip {
namespace {

/// A step's scalars, computed in F64 and rounded once.
template <class T>
struct Step {
  T gradient_factor;
  T beta1, one_minus_beta1;
  T beta2, one_minus_beta2;
  T step_size;
  T root_scale;
  T eps;
};

template <class T>
Step<T> step_of(const double* scalars, const AdamWOptions& options) {
  return {static_cast<T>(scalars[kGradientFactor]), static_cast<T>(options.beta1),
          static_cast<T>(1.0 - options.beta1),      static_cast<T>(options.beta2),
          static_cast<T>(1.0 - options.beta2),      static_cast<T>(scalars[kStepSize]),
          static_cast<T>(scalars[kRootScale]),      static_cast<T>(options.eps)};
}

/// `keep` is what decay leaves of a value: 1 - lr weight_decay, or 1.
template <class T>
void update_block(T* p, T* m, T* v, const T* gradients, T keep, const Step<T>& step) {
#pragma omp simd
  for (int64_t i = 0; i < kParameterBlock; ++i) {
    const T g = gradients[i] * step.gradient_factor;
    const T first = step.beta1 * m[i] + step.one_minus_beta1 * g;
    const T second = step.beta2 * v[i] + step.one_minus_beta2 * g * g;
    const T denominator = std::sqrt(second) / step.root_scale + step.eps;
    m[i] = first;
    v[i] = second;
    p[i] = p[i] * keep - step.step_size * (first / denominator);
  }
}

template <class T>
void round_block(BF16* rounded, const T* values) {
#pragma omp simd
  for (int64_t i = 0; i < kParameterBlock; ++i) assign(rounded[i], values[i]);
}

}  // namespace

void CpuBackend::adamw_scalars(Tensor& scalars, const Tensor& sum_of_squares,
                               const AdamWOptions& options) {
  set_adamw_scalars(scalars.data<double>(), *sum_of_squares.data<double>(), options);
}

void CpuBackend::adamw(Tensor& values, Tensor& rounded_values, Tensor& first_moments,
                       Tensor& second_moments, const Tensor& gradients, const Tensor& decays,
                       const Tensor& scalars, const AdamWOptions& options) {
  if (scalars.data<double>()[kIsSkipped] != 0) return;
  for_real("adamw", values.dtype(), [&]<class T>(T) {
    const Step<T> step = step_of<T>(scalars.data<double>(), options);
    const T decayed = static_cast<T>(1.0 - options.lr * options.weight_decay);
    T *p = values.data<T>(), *m = first_moments.data<T>(), *v = second_moments.data<T>();
    const T* g = gradients.data<T>();
    BF16* rounded = rounded_values ? rounded_values.data<BF16>() : nullptr;
    const uint8_t* decay_of = decays.data<uint8_t>();
    parallel_for(values.numel() / kParameterBlock, [=](int64_t block) {
      const int64_t at = block * kParameterBlock;
      update_block(p + at, m + at, v + at, g + at, decay_of[block] != 0 ? decayed : T(1), step);
      if (rounded != nullptr) round_block(rounded + at, p + at);
    });
  });
}

}  // namespace clip
