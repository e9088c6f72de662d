#include "tests/cuda_parity.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/random.h"
#include "tests/doubles.h"
#include "tests/op_cases.h"

namespace clip {
namespace {

/// Gradients that cancel to 0 in exact arithmetic may be a rounding of this size.
constexpr double kZero = 1e-7;

constexpr uint64_t kSeed = 11, kOutputStream = 99;

Tensor scaled_normal(Backend& backend, const Shape& shape, uint64_t stream, double scale) {
  Random random(kSeed, stream);
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  for (float& value : values) value = static_cast<float>(scale * random.normal());
  return Tensor::from<float>(backend, shape, values);
}

/// x as it is stored in BF16; on the CPU, whose F32 kernels are the measure, as F32 again.
Tensor as_activation(const Tensor& x, DType activations) {
  const Tensor stored = x.as_dtype(activations);
  return x.backend().device().kind == Device::Kind::kCuda ? stored : stored.as_dtype(DType::kF32);
}

Tensor f32_output_on(Backend& backend, const Shape& shape, Accumulate to) {
  if (to == Accumulate::kYes) return scaled_normal(backend, shape, kOutputStream, 1);
  return Tensor::from<float>(backend, shape,
                             std::vector<float>(static_cast<size_t>(shape.numel()),
                                                std::numeric_limits<float>::quiet_NaN()));
}

}  // namespace

Backend* first_gpu(std::string* why) {
  static std::string reason;
  // Never destroyed: the runtime may be gone before static objects are.
  static Backend* const gpu = []() -> Backend* {
    try {
      return make_cuda_backend(0).release();
    } catch (const Error& error) {
      reason = error.what();
      return nullptr;
    }
  }();
  *why = reason;
  return gpu;
}

void OnGpu::SetUp() {
  std::string why;
  gpu_ = first_gpu(&why);
  if (gpu_ == nullptr) GTEST_SKIP() << why;
}

Tensor Draw::activation(const Shape& shape, uint64_t stream, double scale) const {
  return as_activation(f32(shape, stream, scale), activations_);
}

Tensor Draw::f32(const Shape& shape, uint64_t stream, double scale) const {
  return scaled_normal(backend_, shape, stream, scale);
}

Tensor Draw::activation_output(const Shape& shape, Accumulate to) const {
  return as_activation(f32_output(shape, to), activations_);
}

Tensor Draw::f32_output(const Shape& shape, Accumulate to) const {
  return f32_output_on(backend_, shape, to);
}

Tensor Draw::ints(const std::vector<int32_t>& values) const {
  return Tensor::from<int32_t>(backend_, {static_cast<int64_t>(values.size())}, values);
}

Tensor Draw::bytes(const Shape& shape, uint64_t stream) const {
  Random random(kSeed, stream);
  std::vector<uint8_t> values(static_cast<size_t>(shape.numel()));
  for (uint8_t& value : values) value = static_cast<uint8_t>(random.bits());
  return Tensor::from<uint8_t>(backend_, shape, values);
}

void expect_close(const Tensor& actual, const Tensor& expected, double tolerance,
                  const std::string& what) {
  ASSERT_EQ(actual.shape(), expected.shape()) << what;
  const std::vector<double> a = to_doubles(actual), e = to_doubles(expected);
  double largest = 0;
  for (const double value : e) largest = std::max(largest, std::fabs(value));
  for (size_t i = 0; i < e.size(); ++i) {
    ASSERT_TRUE(std::fabs(a[i] - e[i]) <= tolerance * largest + kZero)  // false for a NaN
        << what << " " << actual.shape() << ", element " << i << ": " << a[i] << ", expected "
        << e[i] << "; the largest is " << largest;
  }
}

void expect_parity(Backend& gpu, const std::function<std::vector<Tensor>(const Draw&)>& run,
                   DType activations, double tolerance) {
  const auto expected = run(Draw(cpu_backend(), activations));
  const auto actual = run(Draw(gpu, activations));
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i)
    expect_close(actual[i], expected[i], tolerance, concat("result ", i));
}

}  // namespace clip
