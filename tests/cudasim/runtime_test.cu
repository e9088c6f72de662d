// What CUDA answers with an error code comes back as that code, with a sentence that says why.
#include <gtest/gtest.h>

#include <string>

#include "cuda/dynamic_shared.cuh"
#include "cuda/launch.cuh"
#include "engine/check.h"
#include "tests/cudasim/options.h"
#include "tests/cudasim/test_device.h"

namespace cudasim {
namespace {

using clip::launch;

void expect_error(cudaError_t code, cudaError_t expected, const char* reason) {
  EXPECT_EQ(code, expected);
  EXPECT_NE(std::string(cudaGetErrorString(code)).find(reason), std::string::npos)
      << cudaGetErrorString(code);
  EXPECT_EQ(cudaGetLastError(), expected);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

__global__ void use_shared(int bytes) {
  if (threadIdx.x == 0) clip::dynamic_shared<char>()[bytes - 1] = 1;
}
__global__ void use_much_shared(int bytes) {
  if (threadIdx.x == 0) clip::dynamic_shared<char>()[bytes - 1] = 1;
}

std::string error_of_launch(void (*kernel)(int), const clip::LaunchShape& shape,
                            cudaStream_t stream) {
  try {
    launch("the_kernel", kernel, shape, stream, static_cast<int>(shape.shared_bytes));
    return "";
  } catch (const clip::Error& error) {
    return error.what();
  }
}

TEST(Runtime, MoreThan48KilobytesMustBeAskedFor) {
  const TestStream stream;
  constexpr int kBytes = 64 * 1024;
  const auto enqueue_directly = [&] {
    return enqueue({"use_shared", "", 0, reinterpret_cast<const void*>(use_shared), dim3(1),
                    dim3(1), kBytes, [=] { use_shared(kBytes); }},
                   stream);
  };
  expect_error(enqueue_directly(), cudaErrorInvalidValue, "65536 bytes of dynamic shared memory");
  must(cudaFuncSetAttribute(reinterpret_cast<const void*>(use_shared),
                            cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  must(enqueue_directly());
  stream.wait();
}

TEST(Runtime, LaunchAsksForMoreThan48KilobytesByItself) {
  const TestStream stream;
  EXPECT_EQ(error_of_launch(use_much_shared, {1, 1, 163 * 1024}, stream), "");
  const std::string error = error_of_launch(use_much_shared, {1, 1, 163 * 1024 + 1}, stream);
  EXPECT_NE(error.find("[the_kernel]"), std::string::npos) << error;
  EXPECT_NE(error.find("at most 166912"), std::string::npos) << error;
}

TEST(Runtime, ShapesThatNoDeviceTakesAreRefused) {
  const TestStream stream;
  const auto refused = [&](dim3 grid, dim3 block) {
    return error_of_launch(use_shared, {grid, block, 16}, stream)
               .find("invalid configuration argument") != std::string::npos;
  };
  EXPECT_TRUE(refused(0, 32));
  EXPECT_TRUE(refused(1, 0));
  EXPECT_TRUE(refused(1, 1025));
  EXPECT_TRUE(refused(dim3(1, 65536), 32));
  EXPECT_TRUE(refused(1, dim3(1, 1, 65)));
  EXPECT_FALSE(refused(1, 1024));
}

TEST(Runtime, NullStreamIsRefused) {
  EXPECT_NE(error_of_launch(use_shared, {1, 1, 16}, nullptr).find("null stream"),
            std::string::npos);
}

TEST(Runtime, StreamThatWasDestroyedIsRefused) {
  cudaStream_t stream = nullptr;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  must(cudaStreamDestroy(stream));
  expect_error(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle, "does not exist");
}

TEST(Runtime, CopiesStayInsideTheirAllocations) {
  const DeviceArray<float> x(8);
  float host[16] = {};
  expect_error(cudaMemcpy(x.data() + 1, host, 8 * sizeof(float), cudaMemcpyHostToDevice),
               cudaErrorInvalidValue, "target, 32 bytes at");
  expect_error(cudaMemcpy(host, x.data() + 1, 8 * sizeof(float), cudaMemcpyDeviceToHost),
               cudaErrorInvalidValue, "source, 32 bytes at");
  const TestStream stream;
  expect_error(cudaMemsetAsync(x.data(), 0, 33, stream), cudaErrorInvalidValue, "memset of 33");
}

TEST(Runtime, DirectionOfACopyMustBeTrue) {
  const DeviceArray<float> x(8);
  float host[8] = {};
  expect_error(cudaMemcpy(host, x.data(), sizeof(host), cudaMemcpyHostToDevice),
               cudaErrorInvalidValue, "target");
  expect_error(cudaMemcpy(x.data(), host, sizeof(host), cudaMemcpyDeviceToDevice),
               cudaErrorInvalidValue, "source");
  must(cudaMemcpy(x.data(), host, sizeof(host), cudaMemcpyDefault));
}

TEST(Runtime, MemoryEndsWhereTheOptionsSay) {
  const Options before = options();
  options().memory_bytes = 1000;
  void* first = nullptr;
  void* second = nullptr;
  must(cudaMalloc(&first, 600));
  expect_error(cudaMalloc(&second, 600), cudaErrorMemoryAllocation, "600 of 1000 in use");
  size_t free_bytes = 0, total = 0;
  must(cudaMemGetInfo(&free_bytes, &total));
  EXPECT_EQ(free_bytes, 400u);
  EXPECT_EQ(total, 1000u);
  must(cudaFree(first));
  options() = before;
}

TEST(Runtime, ForeignPointersAreNotFreed) {
  float host = 0;
  expect_error(cudaFree(&host), cudaErrorInvalidValue, "did not allocate");
  const DeviceArray<float> x(1);
  expect_error(cudaFreeHost(x.data()), cudaErrorInvalidValue, "did not allocate");
}

TEST(Runtime, EightDevicesAreThereForAsManyRanks) {
  int count = 0;
  must(cudaGetDeviceCount(&count));
  EXPECT_EQ(count, 8);
  expect_error(cudaSetDevice(8), cudaErrorInvalidDevice, "device 8 of 8");
  cudaDeviceProp properties;
  must(cudaGetDeviceProperties(&properties, 0));
  EXPECT_EQ(properties.major, 8);
}

TEST(Runtime, MemsetWritesBytes) {
  const TestStream stream;
  const DeviceArray<int> x(3);
  must(cudaMemsetAsync(x.data(), 1, 3 * sizeof(int), stream));
  stream.wait();
  EXPECT_EQ(x.values(), std::vector<int>(3, 0x01010101));
}

}  // namespace
}  // namespace cudasim
