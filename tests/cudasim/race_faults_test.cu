// Races, which ThreadSanitizer sees whatever the order of the run; part of builds with it only.
#include <gtest/gtest.h>

#include "cuda/dynamic_shared.cuh"
#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"
#include "tests/cudasim/test_device.h"

extern "C" const char* __tsan_default_options() { return "halt_on_error=1"; }

namespace cudasim {
namespace {

using clip::launch;

/// Each step with its barrier, or without.
__global__ void reverse(float* y, bool barrier) {
  float* shared = clip::dynamic_shared<float>();
  shared[threadIdx.x] = 1;
  if (barrier) __syncthreads();
  y[blockIdx.x * blockDim.x + threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

__global__ void reuse(float* y, bool second_barrier) {
  float* shared = clip::dynamic_shared<float>();
  for (int step = 0; step < 3; ++step) {
    shared[threadIdx.x] = static_cast<float>(step);
    __syncthreads();
    y[blockIdx.x * blockDim.x + threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
    if (second_barrier) __syncthreads();
  }
}

__global__ void swap_neighbours(float* y, bool barrier) {
  float* shared = clip::dynamic_shared<float>();
  shared[threadIdx.x] = 1;
  if (barrier) __syncwarp();
  y[blockIdx.x * blockDim.x + threadIdx.x] = shared[threadIdx.x ^ 1];
}

__global__ void shuffle_orders_nothing(float* y) {
  float* shared = clip::dynamic_shared<float>();
  shared[threadIdx.x] = 1;
  __shfl_xor_sync(0xffffffffu, 1, 1);
  y[threadIdx.x] = shared[threadIdx.x ^ 1];
}

/// All blocks write one place, or each its own.
__global__ void count_blocks(float* y, unsigned distance) {
  if (threadIdx.x == blockIdx.x % blockDim.x) y[blockIdx.x * distance] += 1;
}

__global__ void copy_for_another(float* y, const float* x, bool barrier) {
  float* shared = clip::dynamic_shared<float>();
  clip::ptx::cp_async_16(shared + 4 * threadIdx.x, x + 4 * threadIdx.x);
  clip::ptx::cp_async_commit();
  clip::ptx::cp_async_wait<0>();
  if (barrier) __syncthreads();
  y[threadIdx.x] = shared[4 * (threadIdx.x ^ 1)];
}

__global__ void set(float* y, float value) { y[threadIdx.x] = value; }

class Races : public DeathTest {
 protected:
  template <class... Parameters, class... Arguments>
  void run(void (*kernel)(Parameters...), unsigned blocks, Arguments... arguments) {
    launch("the_kernel", kernel, {.grid = blocks, .block = 64, .shared_bytes = 1024}, stream_,
           arguments...);
    stream_.wait();
  }
  TestStream stream_;
  TestStream other_;
  DeviceArray<float> y_{std::vector<float>(1024)};
  DeviceArray<float> x_{std::vector<float>(1024)};
};

#define EXPECT_RACE(statement) EXPECT_DEATH(statement, "ThreadSanitizer: data race")

TEST_F(Races, RightKernelsAreNotReported) {
  for (int repeat = 0; repeat < 2; ++repeat) {
    run(reverse, 3, y_.data(), true);
    run(reuse, 3, y_.data(), true);
    run(swap_neighbours, 3, y_.data(), true);
    run(count_blocks, 20, y_.data(), 1u);
    run(copy_for_another, 1, y_.data(), x_.data(), true);
  }
}

TEST_F(Races, MissingBarrier) { EXPECT_RACE(run(reverse, 1, y_.data(), false)); }

TEST_F(Races, MissingBarrierBeforeReuse) { EXPECT_RACE(run(reuse, 1, y_.data(), false)); }

TEST_F(Races, MissingWarpBarrier) { EXPECT_RACE(run(swap_neighbours, 1, y_.data(), false)); }

TEST_F(Races, ShuffleIsNoBarrier) { EXPECT_RACE(run(shuffle_orders_nothing, 1, y_.data())); }

TEST_F(Races, BlocksThatWriteOnePlace) { EXPECT_RACE(run(count_blocks, 2, y_.data(), 0u)); }

TEST_F(Races, AsynchronousCopyOfAnotherThread) {
  EXPECT_RACE(run(copy_for_another, 1, y_.data(), x_.data(), false));
}

TEST_F(Races, StreamsWithoutAnEvent) {
  EXPECT_RACE({
    launch("set", set, {1, 64}, stream_, y_.data(), 1.0f);
    launch("set", set, {1, 64}, other_, y_.data(), 2.0f);
    must(cudaDeviceSynchronize());
  });
}

TEST_F(Races, StreamsWithAnEventAreNotReported) {
  cudaEvent_t event = nullptr;
  must(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  launch("set", set, {1, 64}, stream_, y_.data(), 1.0f);
  must(cudaEventRecord(event, stream_));
  must(cudaStreamWaitEvent(other_, event, 0));
  launch("set", set, {1, 64}, other_, y_.data(), 2.0f);
  must(cudaDeviceSynchronize());
  EXPECT_EQ(y_.values()[0], 2);
  must(cudaEventDestroy(event));
}

TEST_F(Races, HostThatDoesNotWaitForACopy) {
  void* pinned = nullptr;
  must(cudaMallocHost(&pinned, 64));
  EXPECT_RACE({
    must(cudaMemcpyAsync(pinned, y_.data(), 64, cudaMemcpyDeviceToHost, stream_));
    static_cast<volatile float*>(pinned)[0] = 1;
    must(cudaDeviceSynchronize());
  });
  must(cudaFreeHost(pinned));
}

}  // namespace
}  // namespace cudasim
