// Streams run as late as the host allows, or every other stream first: a missing wait shows in one of
// the two. Left out where ThreadSanitizer runs: it reports these races, see race_faults_test.cu.
#include <gtest/gtest.h>

#include <cmath>

#include "cuda/launch.cuh"
#include "tests/cudasim/options.h"
#include "tests/cudasim/test_device.h"

namespace cudasim {
namespace {

using clip::launch;

__global__ void set(float* y, float value) { y[threadIdx.x] = value; }
__global__ void copy(float* y, const float* x) { y[threadIdx.x] = x[threadIdx.x]; }

/// What the second stream reads of what the first writes, without an event between them.
float read_without_waiting(StreamOrder order) {
  const Options before = options();
  options().streams = order;
  const TestStream first, second;
  const DeviceArray<float> x(1), y(1);
  launch("set", set, {1, 1}, first, x.data(), 1.0f);
  launch("copy", copy, {1, 1}, second, y.data(), x.data());
  second.wait();
  options() = before;
  return y.values()[0];
}

TEST(MissingWaits, ReaderThatDoesNotWaitFindsNothingUnderLazy) {
  EXPECT_TRUE(std::isnan(read_without_waiting(StreamOrder::kLazy)));
  EXPECT_EQ(read_without_waiting(StreamOrder::kOthers), 1);
}

/// What the first stream reads when the second overwrites it without waiting for that.
float overwritten_without_waiting(StreamOrder order) {
  const Options before = options();
  options().streams = order;
  const TestStream first, second;
  const DeviceArray<float> x(std::vector<float>{1}), y(1);
  launch("copy", copy, {1, 1}, first, y.data(), x.data());
  launch("set", set, {1, 1}, second, x.data(), 2.0f);
  first.wait();
  options() = before;
  return y.values()[0];
}

TEST(MissingWaits, WriterThatDoesNotWaitSpoilsUnderOthers) {
  EXPECT_EQ(overwritten_without_waiting(StreamOrder::kOthers), 2);
  EXPECT_EQ(overwritten_without_waiting(StreamOrder::kLazy), 1);
}

TEST(MissingWaits, HostThatDoesNotWaitFindsNothing) {
  const TestStream stream;
  const DeviceArray<float> x(1);
  void* pinned = nullptr;
  must(cudaMallocHost(&pinned, sizeof(float)));
  launch("set", set, {1, 1}, stream, x.data(), 1.0f);
  must(cudaMemcpyAsync(pinned, x.data(), sizeof(float), cudaMemcpyDeviceToHost, stream));
  EXPECT_TRUE(std::isnan(*static_cast<float*>(pinned)));
  EXPECT_TRUE(std::isnan(x.values()[0]));  // cudaMemcpy does not wait for a non-blocking stream
  stream.wait();
  EXPECT_EQ(*static_cast<float*>(pinned), 1);
  must(cudaFreeHost(pinned));
}

TEST(MissingWaits, HostThatReusesPinnedMemoryTooEarlySpoilsTheCopy) {
  const TestStream stream;
  const DeviceArray<float> x(1);
  void* pinned = nullptr;
  must(cudaMallocHost(&pinned, sizeof(float)));
  *static_cast<float*>(pinned) = 1;
  must(cudaMemcpyAsync(x.data(), pinned, sizeof(float), cudaMemcpyHostToDevice, stream));
  *static_cast<float*>(pinned) = 2;
  stream.wait();
  EXPECT_EQ(x.values()[0], 2);
  must(cudaFreeHost(pinned));
}

}  // namespace
}  // namespace cudasim
