// Plants each fault that the simulator reports by itself, and expects the report with kernel, file and
// line. Faults that only a sanitizer sees are in address_faults_test.cu and race_faults_test.cu.
#include <gtest/gtest.h>

#include "cuda/dynamic_shared.cuh"
#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"
#include "tests/cudasim/fault.h"
#include "tests/cudasim/test_device.h"

namespace cudasim {
namespace {

using clip::launch;
using testing::ExitedWithCode;

constexpr unsigned kAll = 0xffffffffu;

__global__ void fill_with_ones(float* values) { values[threadIdx.x] = 1; }

__global__ void barrier_in_both_branches(float* values) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  values[threadIdx.x] = 1;
}

__global__ void barrier_or_shuffle(float* values) {
  float value = 1;
  if (threadIdx.x < 16)
    value += __shfl_xor_sync(kAll, value, 1);
  else
    __syncthreads();
  values[threadIdx.x] = value;
}

__global__ void mask_without_the_caller(float* values) {
  values[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, 1.0f, 1);
}

__global__ void two_masks(float* values) {
  const unsigned mask = threadIdx.x < 16 ? kAll : 0xfffffffeu;
  values[threadIdx.x] = __shfl_xor_sync(mask, 1.0f, 1);
}

__global__ void two_warp_functions(float* values) {
  if (threadIdx.x < 16)
    values[threadIdx.x] = __shfl_xor_sync(kAll, 1.0f, 1);
  else
    __syncwarp();
}

__global__ void reads_outside_the_mask(float* values) {
  if (threadIdx.x < 24) values[threadIdx.x] = __shfl_down_sync(0x00ffffffu, 1.0f, 16);
}

__global__ void reads_a_lane_that_left(float* values) {
  if (threadIdx.x >= 20) return;
  values[threadIdx.x] = __shfl_xor_sync(kAll, 1.0f, 16);
}

__global__ void width_of_three(float* values) {
  values[threadIdx.x] = __shfl_xor_sync(kAll, 1.0f, 1, 3);
}

__global__ void copies_and_never_waits(const float* from) {
  float* shared = clip::dynamic_shared<float>();
  clip::ptx::cp_async_16(shared + 4 * threadIdx.x, from + 4 * threadIdx.x);
  clip::ptx::cp_async_commit();
}

__global__ void copies_and_never_commits(const float* from) {
  float* shared = clip::dynamic_shared<float>();
  clip::ptx::cp_async_16(shared + 4 * threadIdx.x, from + 4 * threadIdx.x);
  clip::ptx::cp_async_wait<0>();
}

__global__ void copies_from(const float* from, int64_t shared_offset) {
  float* shared = clip::dynamic_shared<float>();
  clip::ptx::cp_async_16(shared + shared_offset, from);
  clip::ptx::cp_async_commit();
  clip::ptx::cp_async_wait<0>();
}

struct HostPointer {
  const float* address;
};
__global__ void copies_from_a_struct(HostPointer from) {
  clip::ptx::cp_async_16(clip::dynamic_shared<float>(), from.address);
}

__global__ void loads_a_tile(int64_t offset) {
  uint32_t tiles[4];
  clip::ptx::ldmatrix_x4(tiles, clip::dynamic_shared<unsigned char>() + offset);
}

__global__ void multiplies_with_half_a_warp(float* values) {
  if (threadIdx.x >= 16) return;
  float d[4] = {};
  const uint32_t a[4] = {};
  clip::ptx::mma_m16n8k16(d, a, 0, 0);
  values[threadIdx.x] = d[0];
}

__global__ void traps() { __trap(); }

class Faults : public DeathTest {
 protected:
  template <class... Parameters, class... Arguments>
  void run(const KernelName& name, void (*kernel)(Parameters...), unsigned threads,
           Arguments... arguments) {
    launch(name, kernel, {.grid = 2, .block = threads, .shared_bytes = 1024}, stream_,
           arguments...);
    stream_.wait();
  }
  TestStream stream_;
  DeviceArray<float> values_{std::vector<float>(256)};
};

#define EXPECT_FAULT(statement, message) \
  EXPECT_EXIT(statement, ExitedWithCode(kFaultExitCode), message)

TEST_F(Faults, HostPointerIsNamedByKernelArgumentAndPlaceOfLaunch) {
  float host[32];
  EXPECT_FAULT(run("fill_with_ones", fill_with_ones, 32, host),
               "kernel fill_with_ones, launched at .*faults_test.cu:[0-9]+: argument 0 is a "
               "pointer to host memory");
}

TEST_F(Faults, PinnedPointerIsNotADevicePointer) {
  void* pinned = nullptr;
  must(cudaMallocHost(&pinned, 128));
  EXPECT_FAULT(run("fill_with_ones", fill_with_ones, 32, static_cast<float*>(pinned)),
               "pinned host memory");
  must(cudaFreeHost(pinned));
}

TEST_F(Faults, BarriersAtTwoPlacesDiverge) {
  EXPECT_FAULT(run("barrier_in_both_branches", barrier_in_both_branches, 64, values_.data()),
               "divergent barriers: thread 0 waits in __syncthreads of .*faults_test.cu:[0-9]+, "
               "thread 32 in the one of .*faults_test.cu:[0-9]+");
}

TEST_F(Faults, ReportNamesBlockThreadAndOrders) {
  EXPECT_FAULT(run("barrier_in_both_branches", barrier_in_both_branches, 64, values_.data()),
               "in kernel barrier_in_both_branches, .*block \\(0, 0, 0\\) of \\(2, 1, 1\\), thread "
               "\\(32, 0, 0\\) of \\(64, 1, 1\\)\n.*CUDASIM_LANES=ascending CUDASIM_STREAMS=lazy");
}

TEST_F(Faults, BarrierAgainstShuffleIsADeadlock) {
  EXPECT_FAULT(run("barrier_or_shuffle", barrier_or_shuffle, 32, values_.data()),
               "deadlock.*\n.*16 threads \\(0 ...\\): __shfl_xor_sync of .*, mask 0xffffffff\n.*16 "
               "threads \\(16 ...\\): __syncthreads of .*faults_test.cu:[0-9]+");
}

TEST_F(Faults, MaskMustNameItsCaller) {
  EXPECT_FAULT(run("mask_without_the_caller", mask_without_the_caller, 32, values_.data()),
               "lane 16 calls __shfl_xor_sync of .*mask 0xffff, which does not name it");
}

TEST_F(Faults, LanesOfAWarpMustNameOneMask) {
  EXPECT_FAULT(run("two_masks", two_masks, 32, values_.data()),
               "lanes of one warp disagree: .*mask 0xffffffff.*mask 0xfffffffe");
}

TEST_F(Faults, LanesOfAWarpMustCallOneFunction) {
  EXPECT_FAULT(run("two_warp_functions", two_warp_functions, 32, values_.data()),
               "lanes of one warp disagree: .*__shfl_xor_sync.*__syncwarp");
}

TEST_F(Faults, ShuffleReadsALaneOutsideTheMask) {
  EXPECT_FAULT(run("reads_outside_the_mask", reads_outside_the_mask, 32, values_.data()),
               "lane 8 reads lane 24 in __shfl_down_sync of .*faults_test.cu:[0-9]+");
}

TEST_F(Faults, ShuffleReadsALaneThatHasLeft) {
  EXPECT_FAULT(run("reads_a_lane_that_left", reads_a_lane_that_left, 32, values_.data()),
               "lane 4 reads lane 20 in __shfl_xor_sync");
}

TEST_F(Faults, WidthOfAShuffleIsAPowerOfTwo) {
  EXPECT_FAULT(run("width_of_three", width_of_three, 32, values_.data()),
               "width must be 1, 2, 4, 8, 16 or 32, got 3");
}

TEST_F(Faults, AsynchronousCopyIsNeverWaitedFor) {
  EXPECT_FAULT(run("copies_and_never_waits", copies_and_never_waits, 32, values_.data()),
               "ends without waiting for its cp.async of .*faults_test.cu:[0-9]+");
}

TEST_F(Faults, AsynchronousCopyIsNeverCommitted) {
  EXPECT_FAULT(run("copies_and_never_commits", copies_and_never_commits, 32, values_.data()),
               "cp.async of .*, which it never committed");
}

TEST_F(Faults, AsynchronousCopyIsMisaligned) {
  EXPECT_FAULT(run("copies_from", copies_from, 1, values_.data() + 1, 0),
               "cp.async of .*: source .* is not 16-byte aligned");
  EXPECT_FAULT(run("copies_from", copies_from, 1, values_.data(), 2),
               "cp.async of .*: target .* is not 16-byte aligned");
}

TEST_F(Faults, AsynchronousCopyLeavesItsMemory) {
  EXPECT_FAULT(run("copies_from", copies_from, 1, values_.data(), 256),
               "target .* is not inside the block's shared memory");
  EXPECT_FAULT(run("copies_from", copies_from, 1, values_.data() + 256, 0),
               "source .* is not inside an allocation of the device");
}

TEST_F(Faults, HostPointerInAStructShowsWhenItIsCopiedFrom) {
  alignas(16) float host[4] = {};
  EXPECT_FAULT(run("copies_from_a_struct", copies_from_a_struct, 1, HostPointer{host}),
               "source .* is not inside an allocation of the device");
}

TEST_F(Faults, TileRowIsMisaligned) {
  EXPECT_FAULT(run("loads_a_tile", loads_a_tile, 32, 8), "ldmatrix of .*16-byte aligned");
}

TEST_F(Faults, TileRowIsOutsideSharedMemory) {
  EXPECT_FAULT(run("loads_a_tile", loads_a_tile, 32, 1024),
               "ldmatrix of .* not inside the block's shared memory");
}

TEST_F(Faults, TensorCoresNeedTheWholeWarp) {
  EXPECT_FAULT(run("multiplies_with_half_a_warp", multiplies_with_half_a_warp, 32, values_.data()),
               "mma of .* needs all 32 lanes, got 0xffff");
}

TEST_F(Faults, TrapEndsTheProgram) { EXPECT_FAULT(run("traps", traps, 32), "__trap of"); }

TEST_F(Faults, SharedMemoryOutsideAKernel) {
  EXPECT_FAULT(clip::dynamic_shared<float>(), "dynamic_shared is called outside a kernel");
  EXPECT_FAULT(__syncthreads(), "called outside a kernel");
}

}  // namespace
}  // namespace cudasim
