// A program with its waits gives the same in every order of streams.
#include <gtest/gtest.h>

#include "cuda/launch.cuh"
#include "tests/cudasim/options.h"
#include "tests/cudasim/test_device.h"

namespace cudasim {
namespace {

using clip::launch;

__global__ void set(float* y, float value) { y[threadIdx.x] = value; }
__global__ void copy(float* y, const float* x) { y[threadIdx.x] = x[threadIdx.x]; }

class Streams : public testing::TestWithParam<StreamOrder> {
 protected:
  Streams() { options().streams = GetParam(); }
  ~Streams() override { options() = before_; }
  Options before_ = options();
};

std::string name_of(const testing::TestParamInfo<StreamOrder>& info) {
  static constexpr const char* kNames[] = {"Lazy", "Others", "Eager"};
  return kNames[static_cast<int>(info.param)];
}
INSTANTIATE_TEST_SUITE_P(Orders, Streams,
                         testing::Values(StreamOrder::kLazy, StreamOrder::kOthers,
                                         StreamOrder::kEager),
                         name_of);

TEST_P(Streams, OneStreamRunsInItsOrder) {
  const TestStream stream;
  const DeviceArray<float> x(1), y(1);
  launch("set", set, {1, 1}, stream, x.data(), 1.0f);
  launch("copy", copy, {1, 1}, stream, y.data(), x.data());
  launch("set", set, {1, 1}, stream, x.data(), 2.0f);
  stream.wait();
  EXPECT_EQ(x.values()[0], 2);
  EXPECT_EQ(y.values()[0], 1);
}

// Whoever waits for an event sees what was done before its record, in every order.
TEST_P(Streams, EventOrdersTwoStreams) {
  const TestStream first, second;
  cudaEvent_t written = nullptr, read = nullptr;
  must(cudaEventCreateWithFlags(&written, cudaEventDisableTiming));
  must(cudaEventCreateWithFlags(&read, cudaEventDisableTiming));
  const DeviceArray<float> x(1), y(3);
  for (int step = 0; step < 3; ++step) {
    launch("set", set, {1, 1}, first, x.data(), static_cast<float>(step));
    must(cudaEventRecord(written, first));
    must(cudaStreamWaitEvent(second, written, 0));
    launch("copy", copy, {1, 1}, second, y.data() + step, x.data());
    must(cudaEventRecord(read, second));
    must(cudaStreamWaitEvent(first, read, 0));
  }
  second.wait();
  EXPECT_EQ(y.values(), (std::vector<float>{0, 1, 2}));
  must(cudaEventDestroy(written));
  must(cudaEventDestroy(read));
}

TEST_P(Streams, WaitingForAnEventIsEnoughForTheHost) {
  const TestStream stream;
  cudaEvent_t done = nullptr;
  must(cudaEventCreate(&done));
  const DeviceArray<float> x(1);
  launch("set", set, {1, 1}, stream, x.data(), 3.0f);
  must(cudaEventRecord(done, stream));
  must(cudaEventSynchronize(done));
  EXPECT_EQ(x.values()[0], 3);
  must(cudaEventDestroy(done));
}

TEST_P(Streams, PageableMemoryIsReadAndWrittenDuringTheCall) {
  const TestStream stream;
  const DeviceArray<float> x(1);
  float source = 4, target = 0;
  must(cudaMemcpyAsync(x.data(), &source, sizeof(float), cudaMemcpyHostToDevice, stream));
  source = 5;
  must(cudaMemcpyAsync(&target, x.data(), sizeof(float), cudaMemcpyDeviceToHost, stream));
  EXPECT_EQ(target, 4);
}

TEST(HostSide, StreamsThatWaitForTheNullStreamAreWaitedForByCudaMemcpy) {
  cudaStream_t stream = nullptr;
  must(cudaStreamCreate(&stream));
  const DeviceArray<float> x(1);
  launch("set", set, {1, 1}, stream, x.data(), 1.0f);
  EXPECT_EQ(x.values()[0], 1);
  must(cudaStreamDestroy(stream));
}

TEST(HostSide, TimeBetweenEvents) {
  const TestStream stream;
  cudaEvent_t start = nullptr, end = nullptr;
  must(cudaEventCreate(&start));
  must(cudaEventCreate(&end));
  must(cudaEventRecord(start, stream));
  must(cudaEventRecord(end, stream));
  float milliseconds = -1;
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorNotReady);
  stream.wait();
  must(cudaEventElapsedTime(&milliseconds, start, end));
  EXPECT_GE(milliseconds, 0);
  must(cudaEventDestroy(start));
  must(cudaEventDestroy(end));
}

}  // namespace
}  // namespace cudasim
