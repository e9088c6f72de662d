// Scalar formulas that every backend uses, so that they agree. Branch-free, hence vectorised inside
// loops.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "engine/backend.h"

#if defined(__CUDACC__)
#define CLIP_HOST_DEVICE __host__ __device__
#else
#define CLIP_HOST_DEVICE
#endif

namespace clip {

/// Device code reads constants of the host, but may not call numeric_limits.
inline constexpr float kInfinityF32 = std::numeric_limits<float>::infinity();
inline constexpr double kLargestF64 = std::numeric_limits<double>::max();

/// The bits of a number, and back; std::bit_cast is a function of the host alone.
CLIP_HOST_DEVICE inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
CLIP_HOST_DEVICE inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

/// e^x = mantissa * 2^exponent; of the exponent the low bits count.
struct PowerOfE {
  float mantissa;
  uint32_t exponent;
};
CLIP_HOST_DEVICE inline PowerOfE power_of_e(float x) {
  constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  // Adding and taking away 1.5 * 2^23 rounds to the nearest integer; its low bits are that integer.
  constexpr float kRound = 12582912.0f;
  const float shifted = x * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  // Minimax polynomial of (e^r - 1 - r) / r^2 on [-ln2/2, ln2/2] (Cephes' coefficients).
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return {(p * r) * r + r + 1.0f, bits_of(shifted)};
}

/// e^x. F32: within 2 ulp, 0 below -87.3, infinity where the result does not fit; F64: the standard
/// library's. A NaN stays one: training looks for them.
CLIP_HOST_DEVICE inline double exponential(double x) { return std::exp(x); }
CLIP_HOST_DEVICE inline float exponential(float x) {
  const PowerOfE power = power_of_e(x);
  // Times 2^n by way of the exponent's bits; unsigned, because out of range the sum wraps around.
  const uint32_t bits = bits_of(power.mantissa) + (power.exponent << 23);
  const float above = x + kInfinityF32;  // also what a NaN becomes
  return x < -87.3f ? 0.0f : (x <= 88.7228f ? float_of(bits) : above);
}

/// 1 / (1 + e^-x). F32: within 3 ulp from -88.37 on, 0 below -88.38.
CLIP_HOST_DEVICE inline double sigmoid(double x) { return 1.0 / (1.0 + exponential(-x)); }
CLIP_HOST_DEVICE inline float sigmoid(float x) {
  // Bounded like this a NaN stays one, and nothing is left to branch on: 2^128 is infinity.
  const float below = 87.0f < x ? 87.0f : x;
  const PowerOfE power = power_of_e(-(below < -88.8f ? -88.8f : below));
  return 1.0f / (1.0f + power.mantissa * float_of((power.exponent + 127) << 23));
}

/// s = exp(logit_scale), taken in F64.
template <class T>
CLIP_HOST_DEVICE inline T scale_of(T logit_scale) {
  return static_cast<T>(std::exp(static_cast<double>(logit_scale)));
}

/// ln(1 + y) for y in [0, 1]. F32: within 2 ulp; F64: the standard library's.
CLIP_HOST_DEVICE inline double log_one_plus(double y) { return std::log1p(y); }
CLIP_HOST_DEVICE inline float log_one_plus(float y) {
  // 2 artanh(t) with t = y / (2 + y), at most 1/3: what the series leaves out after t^15 is below
  // 2e-9 of it.
  const float t = y / (2.0f + y), u = t * t;
  float p = 1.0f / 15.0f;
  p = p * u + 1.0f / 13.0f;
  p = p * u + 1.0f / 11.0f;
  p = p * u + 1.0f / 9.0f;
  p = p * u + 1.0f / 7.0f;
  p = p * u + 1.0f / 5.0f;
  p = p * u + 1.0f / 3.0f;
  return 2.0f * (t + t * u * p);
}

/// ln(1 + e^x) = -ln sigmoid(-x), whatever the size of x.
template <class T>
CLIP_HOST_DEVICE inline T softplus(T x) {
  return (x > T(0) ? x : T(0)) + log_one_plus(exponential(-std::fabs(x)));
}

/// erf(x) where exp(-x^2) is known already. F32: within 3 ulp; F64: the standard library's.
CLIP_HOST_DEVICE inline double error_function(double x, double /*exp_minus_x_squared*/) {
  return std::erf(x);
}
CLIP_HOST_DEVICE inline float error_function(float x, float exp_minus_x_squared) {
  // Both polynomials are minimax fits made for this file (Remez exchange, 40 digits).
  // erf(x) / x as a polynomial of x^2 on [0, 1.1^2]: relative error 4.3e-9.
  const float t = x * x;
  float p = 7.188009615e-5f;
  p = p * t - 7.805796837e-4f;
  p = p * t + 5.164863850e-3f;
  p = p * t - 2.684144235e-2f;
  p = p * t + 1.128329176e-1f;
  p = p * t - 3.761260052e-1f;
  p = p * t + 1.128379162f;
  // (1 - erf(x)) exp(x^2) on [1.1, 4], weighted by exp(-x^2): error of erf 4.0e-8. From 4 on
  // exp(-x^2) is below half an ulp of 1; the bound keeps 0 times infinity away.
  const float magnitude = std::fabs(x);
  const float u = magnitude < 4.0f ? magnitude : 4.0f;
  float q = 1.110798512e-3f;
  q = q * u - 1.510785079e-2f;
  q = q * u + 8.947747942e-2f;
  q = q * u - 3.048727710e-1f;
  q = q * u + 6.656431980e-1f;
  q = q * u - 9.788006600e-1f;
  q = q * u + 9.701279776e-1f;
  const float large = std::copysign(1.0f - exp_minus_x_squared * q, x);
  return magnitude < 1.1f ? x * p : large;
}

/// erf(x). F32: within 3 ulp; F64: the standard library's.
CLIP_HOST_DEVICE inline double error_function(double x) { return std::erf(x); }
CLIP_HOST_DEVICE inline float error_function(float x) {
  return error_function(x, exponential(-x * x));
}

template <Gelu kind, class T>
CLIP_HOST_DEVICE inline T gelu(T x) {
  if constexpr (kind == Gelu::kQuick) {
    return x * sigmoid(T(1.702) * x);
  } else {
    return T(0.5) * x * (T(1) + error_function(x * T(0.70710678118654752440)));
  }
}

template <Gelu kind, class T>
CLIP_HOST_DEVICE inline T gelu_derivative(T x) {
  if constexpr (kind == Gelu::kQuick) {
    const T s = sigmoid(T(1.702) * x);
    return s + T(1.702) * x * s * (T(1) - s);
  } else {
    const T gauss = exponential(T(-0.5) * x * x);
    const T erf = error_function(x * T(0.70710678118654752440), gauss);
    return T(0.5) * (T(1) + erf) + T(0.39894228040143267794) * x * gauss;
  }
}

/// AdamWScalar by AdamWScalar, from those of the step before. Source: torch/optim/adamw.py.
CLIP_HOST_DEVICE inline void set_adamw_scalars(double* scalars, double sum_of_squares,
                                               const AdamWOptions& options) {
  const double norm = std::sqrt(sum_of_squares);
  const bool skipped = !(norm <= kLargestF64);  // NaN, too
  scalars[kIsSkipped] = skipped ? 1 : 0;
  scalars[skipped ? kSkips : kUpdates] += 1;
  const double share = options.max_norm / (norm + 1e-6);
  scalars[kGradientFactor] = options.max_norm > 0 && share < 1 ? share : 1;
  scalars[kStepSize] = options.lr / (1 - std::pow(options.beta1, scalars[kUpdates]));
  scalars[kRootScale] = std::sqrt(1 - std::pow(options.beta2, scalars[kUpdates]));
}

}  // namespace clip
