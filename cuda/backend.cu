// The GPU as a whole: whether there is one, its streams, its memory, and copies.
#include "cuda/check.h"
#include "cuda/cublas_lt.h"
#include "cuda/cuda_backend.h"
#include "cuda/memory.h"

namespace clip {
namespace {

/// Workspace of cuBLASLt: what NVIDIA recommends for Hopper and later, and before.
int64_t workspace_bytes(int compute_major) { return (compute_major >= 9 ? 32 : 4) << 20; }

cudaStream_t new_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "device");
  return stream;
}

}  // namespace

CudaBackend::CudaBackend(int index, std::string name, int compute_major)
    : index_(index),
      name_(std::move(name)),
      compute_(new_stream()),
      memory_(std::make_unique<DeviceMemory>(compute_)),
      staging_(std::make_unique<HostStaging>()) {
  const int64_t bytes = workspace_bytes(compute_major);
  cublas_ = std::make_unique<CublasLt>(memory_->allocate(bytes), bytes);
}

CudaBackend::~CudaBackend() {
  cudaSetDevice(index_);
  cudaStreamSynchronize(compute_);
  cublas_.reset();
  uploads_.reset();
  staging_.reset();
  memory_.reset();
  cudaStreamDestroy(compute_);
}

cudaStream_t CudaBackend::compute_stream() const {
  check_cuda(cudaSetDevice(index_), "device");
  return compute_;
}

Device CudaBackend::device() const { return {Device::Kind::kCuda, index_}; }

void* CudaBackend::allocate(int64_t bytes) {
  check_cuda(cudaSetDevice(index_), "device");
  return memory_->allocate(bytes);
}

void CudaBackend::release(void* address, int64_t /*bytes*/) noexcept { memory_->release(address); }

void CudaBackend::copy_from_host(void* to, const void* from, int64_t bytes) {
  staging_->copy(to, from, bytes, compute_stream());
}

void CudaBackend::upload(Tensor& to, const void* host) {
  const cudaStream_t compute = compute_stream();
  if (uploads_ == nullptr) uploads_ = std::make_unique<Uploads>(compute);
  uploads_->copy(to.raw(), host, to.bytes());
}

void CudaBackend::copy_to_host(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  const cudaStream_t stream = compute_stream();
  check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream),
             "copy_to_host");
  check_cuda(cudaStreamSynchronize(stream), "copy_to_host");
}

void CudaBackend::copy(Tensor& to, const Tensor& from) {
  if (from.numel() == 0) return;
  check_cuda(cudaMemcpyAsync(to.raw(), from.raw(), static_cast<size_t>(from.bytes()),
                             cudaMemcpyDeviceToDevice, compute_stream()),
             "copy");
}

void CudaBackend::fill_zero(Tensor& x) {
  if (x.numel() == 0) return;
  check_cuda(cudaMemsetAsync(x.raw(), 0, static_cast<size_t>(x.bytes()), compute_stream()),
             "fill_zero");
}

void CudaBackend::synchronize() {
  check_cuda(cudaStreamSynchronize(compute_stream()), "synchronize");
}

std::unique_ptr<Backend> make_cuda_backend(int index) {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  // Without a driver the runtime says that the driver is too old.
  CLIP_CHECK(code != cudaErrorInsufficientDriver, "no cuda:", index,
             ": this machine has no NVIDIA driver, or one that is older than CUDA ",
             CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10, " needs");
  CLIP_CHECK(code == cudaSuccess || code == cudaErrorNoDevice, "no cuda:", index,
             ": CUDA cannot start: ", cudaGetErrorString(code));
  CLIP_CHECK(code == cudaSuccess && count > 0, "no cuda:", index, ": this machine has no GPU");
  CLIP_CHECK(index >= 0 && index < count, "no cuda:", index,
             ": this machine has cuda:0 to cuda:", count - 1);
  cudaDeviceProp properties = {};
  check_cuda(cudaGetDeviceProperties(&properties, index), "device");
  CLIP_CHECK(properties.major >= 8, "no cuda:", index, ": ", properties.name,
             " is of compute capability ", properties.major, ".", properties.minor,
             ", but the kernels need 8.0 or later");
  check_cuda(cudaSetDevice(index), "device");
  return std::make_unique<CudaBackend>(index, properties.name, properties.major);
}

}  // namespace clip
