// Faults that AddressSanitizer and UndefinedBehaviorSanitizer see; part of builds with them only.
#include <gtest/gtest.h>

#include "cuda/dynamic_shared.cuh"
#include "cuda/launch.cuh"
#include "tests/cudasim/test_device.h"

namespace cudasim {
namespace {

using clip::launch;

__global__ void write_global(float* values, int64_t index) { values[index] = 1; }

__global__ void write_dynamic(int64_t index) { clip::dynamic_shared<float>()[index] = 1; }

__global__ void write_static(float* value, int64_t index) {
  __shared__ float fixed[6];
  fixed[index] = 1;
  __syncthreads();
  *value = fixed[threadIdx.x];
}

__global__ void read_four(float* value, const float* from) {
  *value = reinterpret_cast<const float4*>(from)->x;
}

class AddressFaults : public DeathTest {
 protected:
  template <class... Parameters, class... Arguments>
  void run(void (*kernel)(Parameters...), Arguments... arguments) {
    launch("wrong_kernel", kernel, {.grid = 1, .block = 2, .shared_bytes = 20}, stream_,
           arguments...);
    stream_.wait();
  }
  TestStream stream_;
  DeviceArray<float> values_{std::vector<float>(9)};
};

TEST_F(AddressFaults, RightAccessIsNotReported) {
  run(write_global, values_.data(), 8);
  run(write_dynamic, 4);
  run(write_static, values_.data(), 5);
  run(read_four, values_.data(), values_.data() + 4);
}

TEST_F(AddressFaults, FirstNumberBehindAnAllocation) {
  EXPECT_DEATH(run(write_global, values_.data(), 9), "heap-buffer-overflow");
}

TEST_F(AddressFaults, MemoryThatWasFreed) {
  float* freed = nullptr;
  must(cudaMalloc(reinterpret_cast<void**>(&freed), 64));
  EXPECT_DEATH(
      {
        launch("wrong_kernel", write_global, {1, 1}, stream_, freed, 0);
        must(cudaStreamSynchronize(stream_));
        must(cudaFree(freed));
        freed[0] = 1;
      },
      "heap-use-after-free");
  must(cudaFree(freed));
}

TEST_F(AddressFaults, FirstNumberBehindDynamicSharedMemory) {
  EXPECT_DEATH(run(write_dynamic, 5), "heap-buffer-overflow(.|\n)*write_dynamic");
}

TEST_F(AddressFaults, FirstNumberBehindAStaticSharedArray) {
  EXPECT_DEATH(run(write_static, values_.data(), 6), "AddressSanitizer|runtime error");
}

TEST_F(AddressFaults, VectorThatIsNotAligned) {
  EXPECT_DEATH(run(read_four, values_.data(), values_.data() + 1), "misaligned address");
}

}  // namespace
}  // namespace cudasim
