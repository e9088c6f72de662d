// CLIP_CUDA_SYNC=1, which is read once per program: hence a program of its own.
#include <gtest/gtest.h>

#include <cstdlib>

#include "cuda/launch.cuh"
#include "tests/cudasim/options.h"
#include "tests/cudasim/test_device.h"

namespace cudasim {
namespace {

using clip::launch;

__global__ void set(float* y, float value) { y[threadIdx.x] = value; }
__global__ void sum_lanes(float* y) {
  if (threadIdx.x < 8) y[threadIdx.x] = __shfl_down_sync(0xffu, y[threadIdx.x], 16);
}

// Without the variable a lazy stream runs nothing before it is waited for (missing_waits_test.cu).
class LaunchSync : public DeathTest {
 protected:
  LaunchSync() {
    setenv("CLIP_CUDA_SYNC", "1", 1);
    options().streams = StreamOrder::kLazy;
  }
};

TEST_F(LaunchSync, HasRunTheKernelWhenTheLaunchReturns) {
  const TestStream stream;
  const DeviceArray<float> x(1);
  launch("set", set, {1, 1}, stream, x.data(), 3.0f);
  EXPECT_EQ(x.values()[0], 3);
}

TEST_F(LaunchSync, ReportsAFaultBeforeWhatFollowsTheLaunch) {
  const TestStream stream;
  const DeviceArray<float> x(32);
  EXPECT_DEATH(
      {
        launch("sum_lanes", sum_lanes, {1, 32}, stream, x.data());
        std::abort();  // a later call would be blamed
      },
      "kernel sum_lanes, launched at .*launch_sync_test.cu");
}

}  // namespace
}  // namespace cudasim
