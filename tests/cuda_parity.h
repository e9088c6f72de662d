// One computation on the CPU and on the GPU, from the same numbers.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/op_cases.h"

namespace clip {

/// The first GPU, for all tests of the program; null, and the reason in `why`, if there is none.
Backend* first_gpu(std::string* why);

/// Skips where there is no GPU, real or simulated.
class OnGpu : public testing::Test {
 protected:
  void SetUp() override;
  Backend& gpu() const { return *gpu_; }

 private:
  Backend* gpu_ = nullptr;
};

/// Makes the tensors of one run. Numbers depend on (shape, stream) alone, so that both devices get
/// the same.
class Draw {
 public:
  /// activations    F32, or BF16: a GPU then holds BF16, and the CPU the same numbers as F32
  Draw(Backend& backend, DType activations) : backend_(backend), activations_(activations) {}

  Backend& backend() const { return backend_; }
  /// Normal numbers times `scale`, as activations or as F32.
  Tensor activation(const Shape& shape, uint64_t stream, double scale = 1) const;
  Tensor f32(const Shape& shape, uint64_t stream, double scale = 1) const;
  /// An output: to be added to (normal numbers), or written (NaN).
  Tensor activation_output(const Shape& shape, Accumulate to = Accumulate::kNo) const;
  Tensor f32_output(const Shape& shape, Accumulate to = Accumulate::kNo) const;
  Tensor ints(const std::vector<int32_t>& values) const;
  Tensor bytes(const Shape& shape, uint64_t stream) const;

 private:
  Backend& backend_;
  DType activations_;
};

/// Runs on both devices and compares the tensors that come back: |gpu - cpu| is at most the tolerance
/// times the largest |cpu| of the tensor. In F32 the tolerance is 1e-5: some tens of roundings of 6e-8, in
/// another order.
void expect_parity(Backend& gpu, const std::function<std::vector<Tensor>(const Draw&)>& run,
                   DType activations = DType::kF32, double tolerance = 1e-5);

/// The comparison alone, for results on any devices.
void expect_close(const Tensor& actual, const Tensor& expected, double tolerance,
                  const std::string& what);

}  // namespace clip
