// Right kernels give right results in every order of lanes: barriers, warp functions, shared memory,
// copies and tiles.
#include <cuda_bf16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "cuda/dynamic_shared.cuh"
#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"
#include "tests/cudasim/options.h"
#include "tests/cudasim/test_device.h"

namespace cudasim {
namespace {

using clip::launch;

constexpr unsigned kAll = 0xffffffffu;

struct Order {
  LaneOrder lanes;
  uint64_t seed;
};

class Kernels : public testing::TestWithParam<Order> {
 protected:
  Kernels() {
    options().lanes = GetParam().lanes;
    options().seed = GetParam().seed;
  }
  ~Kernels() override { options() = before_; }
  Options before_ = options();
  TestStream stream_;
};

std::string name_of(const testing::TestParamInfo<Order>& info) {
  static constexpr const char* kNames[] = {"Ascending", "Descending", "Random"};
  return kNames[static_cast<int>(info.param.lanes)] + std::to_string(info.param.seed);
}
INSTANTIATE_TEST_SUITE_P(Orders, Kernels,
                         testing::Values(Order{LaneOrder::kAscending, 0},
                                         Order{LaneOrder::kDescending, 0},
                                         Order{LaneOrder::kRandom, 1},
                                         Order{LaneOrder::kRandom, 2}),
                         name_of);

__global__ void reverse_each_block(float* y, const float* x) {
  float* shared = clip::dynamic_shared<float>();
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  shared[threadIdx.x] = x[i];
  __syncthreads();
  y[i] = shared[blockDim.x - 1 - threadIdx.x];
}

TEST_P(Kernels, BlockSeesWhatItsThreadsWroteBeforeTheBarrier) {
  constexpr unsigned kBlock = 100, kBlocks = 3;
  std::vector<float> x(kBlock * kBlocks);
  std::iota(x.begin(), x.end(), 0.0f);
  const DeviceArray<float> from(x), to(x.size());
  launch("reverse", reverse_each_block, {kBlocks, kBlock, kBlock * sizeof(float)}, stream_,
         to.data(), from.data());
  stream_.wait();
  const std::vector<float> y = to.values();
  for (unsigned i = 0; i < x.size(); ++i)
    EXPECT_EQ(y[i], x[i / kBlock * kBlock + kBlock - 1 - i % kBlock]) << i;
}

__global__ void positions(uint3* y) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  y[block * blockDim.x * blockDim.y * blockDim.z + thread] = {block, thread, warpSize};
}

TEST_P(Kernels, EveryThreadOfAThreeDimensionalGridRunsOnce) {
  const dim3 grid(3, 2, 2), block(5, 3, 2);
  constexpr unsigned kThreads = 30, kBlocks = 12;
  const DeviceArray<uint3> y(kThreads * kBlocks);
  launch("positions", positions, {grid, block}, stream_, y.data());
  stream_.wait();
  const std::vector<uint3> seen = y.values();
  for (unsigned i = 0; i < seen.size(); ++i) {
    EXPECT_EQ(seen[i].x, i / kThreads);
    EXPECT_EQ(seen[i].y, i % kThreads);
    EXPECT_EQ(seen[i].z, 32u);
  }
}

__global__ void shuffles(int* y) {
  const int lane = static_cast<int>(threadIdx.x);
  y[lane] = __shfl_sync(kAll, lane, 5);
  y[32 + lane] = __shfl_sync(kAll, lane, lane + 1, 8);
  y[64 + lane] = __shfl_up_sync(kAll, lane, 3);
  y[96 + lane] = __shfl_down_sync(kAll, lane, 3, 16);
  y[128 + lane] = __shfl_xor_sync(kAll, lane, 6);
  y[160 + lane] = static_cast<int>(__shfl_xor_sync(kAll, double{0.5} * lane, 1) * 2);
}

TEST_P(Kernels, ShufflesReadTheLaneThatCudaNames) {
  const DeviceArray<int> to(192);
  launch("shuffles", shuffles, {1, 32}, stream_, to.data());
  stream_.wait();
  const std::vector<int> y = to.values();
  for (int lane = 0; lane < 32; ++lane) {
    const auto at = [&](int kind) { return y[static_cast<size_t>(kind * 32 + lane)]; };
    EXPECT_EQ(at(0), 5);
    EXPECT_EQ(at(1), lane / 8 * 8 + (lane + 1) % 8);
    EXPECT_EQ(at(2), lane < 3 ? lane : lane - 3);
    EXPECT_EQ(at(3), lane % 16 + 3 < 16 ? lane + 3 : lane);
    EXPECT_EQ(at(4), lane ^ 6);
    EXPECT_EQ(at(5), lane ^ 1);
  }
}

__global__ void votes(int* y) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int* mine = y + 6 * threadIdx.x;
  mine[0] = static_cast<int>(__ballot_sync(kAll, lane % 3 == 0));
  mine[1] = __any_sync(kAll, lane == 7);
  mine[2] = __all_sync(kAll, lane != 7);
  mine[3] = __syncthreads_count(threadIdx.x < 10);
  mine[4] = __syncthreads_and(threadIdx.x < 10);
  mine[5] = __syncthreads_or(threadIdx.x < 10);
}

TEST_P(Kernels, VotesCountTheLanesThatAreThere) {
  constexpr unsigned kThreads = 40;  // the second warp has eight lanes
  const DeviceArray<int> to(6 * kThreads);
  launch("votes", votes, {1, kThreads}, stream_, to.data());
  stream_.wait();
  const std::vector<int> y = to.values();
  for (unsigned t = 0; t < kThreads; ++t) {
    const int* mine = y.data() + 6 * t;
    EXPECT_EQ(mine[0], t < 32 ? 0x49249249 : 0x49) << t;
    EXPECT_EQ(mine[1], 1);
    EXPECT_EQ(mine[2], 0);
    EXPECT_EQ(mine[3], 10);
    EXPECT_EQ(mine[4], 0);
    EXPECT_EQ(mine[5], 1);
  }
}

__global__ void leaves_early(float* y, unsigned count) {
  if (threadIdx.x >= count) return;
  y[threadIdx.x] = 1;
  __syncthreads();
  const float other = y[count - 1 - threadIdx.x];
  __syncthreads();
  y[threadIdx.x] += other;
}

TEST_P(Kernels, ThreadsThatLeftAreNotWaitedFor) {
  const DeviceArray<float> y(std::vector<float>(64));
  launch("leaves_early", leaves_early, {1, 64}, stream_, y.data(), 10u);
  stream_.wait();
  const std::vector<float> values = y.values();
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(values[i], i < 10 ? 2 : 0) << i;
}

__global__ void first_look(float* y) {
  __shared__ float fixed[4];
  float* shared = clip::dynamic_shared<float>();
  if (threadIdx.x == 0) {
    y[2 * blockIdx.x] = shared[1];
    y[2 * blockIdx.x + 1] = fixed[3];
    shared[1] = fixed[3] = 1;
  }
}

TEST_P(Kernels, SharedMemoryStartsAsNaNInEveryBlock) {
  const DeviceArray<float> to(6);
  launch("first_look", first_look, {3, 32, 16}, stream_, to.data());
  stream_.wait();
  for (const float value : to.values()) EXPECT_TRUE(std::isnan(value));
}

TEST(Memory, StartsAsNaN) {
  for (const float value : DeviceArray<float>(9).values()) EXPECT_TRUE(std::isnan(value));
}

__global__ void copies_in_two_groups(float* y, const float* x) {
  float* shared = clip::dynamic_shared<float>();
  const unsigned t = threadIdx.x;
  for (unsigned group = 0; group < 2; ++group) {
    clip::ptx::cp_async_16(shared + 128 * group + 4 * t, x + 128 * group + 4 * t);
    clip::ptx::cp_async_commit();
  }
  const auto look = [&](unsigned step) {
    y[64 * step + t] = shared[4 * t];
    y[64 * step + 32 + t] = shared[128 + 4 * t];
  };
  look(0);
  clip::ptx::cp_async_wait<1>();
  look(1);
  clip::ptx::cp_async_wait<0>();
  look(2);
}

TEST_P(Kernels, AsynchronousCopyArrivesInItsWaitAndNotBefore) {
  std::vector<float> x(256);
  std::iota(x.begin(), x.end(), 1.0f);
  const DeviceArray<float> from(x), to(192);
  launch("copies_in_two_groups", copies_in_two_groups, {1, 32, 1024}, stream_, to.data(),
         from.data());
  stream_.wait();
  const std::vector<float> y = to.values();
  for (size_t step = 0; step < 3; ++step)
    for (size_t group = 0; group < 2; ++group)
      for (size_t t = 0; t < 32; ++t) {
        const float value = y[64 * step + 32 * group + t];
        if (step > group)
          EXPECT_EQ(value, x[128 * group + 4 * t]);
        else
          EXPECT_TRUE(std::isnan(value)) << "before its wait, group " << group;
      }
}

// One product [16, 8] += [16, 16] [16, 8] the way attention makes it: A from memory by hand, B from
// rows of its transpose (ldmatrix) or of itself (ldmatrix.trans).
__global__ void tile_product(float* d, const __nv_bfloat16* a, const __nv_bfloat16* b,
                             bool transposed) {
  __nv_bfloat16* shared = clip::dynamic_shared<__nv_bfloat16>();
  const unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4;
  for (unsigned i = lane; i < 512; i += 32) shared[i] = i < 256 ? a[i] : b[i - 256];
  __syncwarp();
  uint32_t left[4], right[4];
  // Tiles: rows 0-7 and 8-15 of k 0-7, then of k 8-15.
  clip::ptx::ldmatrix_x4(left, shared + lane % 16 * 16 + lane / 16 * 8);
  if (transposed)  // b is [8, 16] twice: its rows are columns of the product
    clip::ptx::ldmatrix_x4(right, shared + 256 + lane % 8 * 16 + lane / 8 % 2 * 8);
  else  // b is [16, 16], of which 8 columns count
    clip::ptx::ldmatrix_x4_trans(right, shared + 256 + lane % 16 * 16);
  float sums[4] = {1, 1, 1, 1};
  clip::ptx::mma_m16n8k16(sums, left, right[0], right[1]);
  for (unsigned i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sums[i];
}

TEST_P(Kernels, TilesMultiplyAsTensorCoresDo) {
  std::vector<__nv_bfloat16> a(256), b(256);
  for (int i = 0; i < 256; ++i) {  // small integers: every sum is exact
    a[static_cast<size_t>(i)] = __float2bfloat16(static_cast<float>(i * 7 % 13 - 6));
    b[static_cast<size_t>(i)] = __float2bfloat16(static_cast<float>(i * 5 % 11 - 5));
  }
  const DeviceArray<__nv_bfloat16> first(a), second(b);
  const DeviceArray<float> to(128);
  for (const bool transposed : {false, true}) {
    launch("tile_product", tile_product, {1, 32, 1024}, stream_, to.data(), first.data(),
           second.data(), transposed);
    stream_.wait();
    const std::vector<float> d = to.values();
    for (size_t m = 0; m < 16; ++m)
      for (size_t n = 0; n < 8; ++n) {
        float sum = 1;
        for (size_t k = 0; k < 16; ++k)
          sum += __bfloat162float(a[16 * m + k]) *
                 __bfloat162float(b[transposed ? 16 * n + k : 16 * k + n]);
        EXPECT_EQ(d[8 * m + n], sum) << m << " " << n << " " << transposed;
      }
  }
}

__global__ void powers(float* y) { y[threadIdx.x] = clip::ptx::exp2_approx(y[threadIdx.x]); }

TEST_P(Kernels, PowersOfTwoAreThoseOfTheHardware) {
  const DeviceArray<float> y(std::vector<float>{0, -3, 10, -INFINITY, -130, INFINITY});
  launch("powers", powers, {1, 6}, stream_, y.data());
  stream_.wait();
  EXPECT_EQ(y.values(), (std::vector<float>{1, 0.125f, 1024, 0, 0, INFINITY}));
}

}  // namespace
}  // namespace cudasim
