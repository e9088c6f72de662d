// Collectives between GPUs. Chosen at link time where there is NCCL.
#include <nccl.h>

#include <cstdlib>
#include <vector>

#include "cuda/check.h"
#include "cuda/cuda_backend.h"
#include "engine/communicator.h"

namespace clip {
namespace {

/// The one check of NCCL's calls.
void check_nccl(ncclResult_t code, const char* what) {
  CLIP_CHECK(code == ncclSuccess, "[", what, "] NCCL: ", ncclGetErrorString(code));
}

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return ncclFloat32;
    case DType::kBF16:
      return ncclBfloat16;
    case DType::kF64:
      return ncclFloat64;
    case DType::kI32:
      return ncclInt32;
    case DType::kU8:
      return ncclUint8;
  }
  throw Error(concat("[ranks] NCCL has no type ", dtype));
}

/// A sum must have the same bits every time: no reduction inside switches, and rings, whose order
/// depends on the message's size alone. A user who wants speed sets these himself.
void choose_repeatable_algorithms() {
  setenv("NCCL_NVLS_ENABLE", "0", 0);
  setenv("NCCL_ALGO", "Ring", 0);
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(Communicator& launch, CudaBackend& gpu) : launch_(launch), gpu_(gpu) {
    choose_repeatable_algorithms();
    ncclUniqueId id = {};
    if (launch.rank() == 0) check_nccl(ncclGetUniqueId(&id), "ranks");
    Tensor bytes = Tensor::from_bytes(cpu_backend(), {sizeof(id)}, DType::kU8, &id);
    launch.broadcast(bytes, 0);
    launch.wait();
    bytes.copy_to_host(&id);
    gpu.compute_stream();  // makes this rank's GPU the thread's
    check_nccl(ncclCommInitRank(&comm_, static_cast<int>(launch.size()), id,
                                static_cast<int>(launch.rank())),
               "ranks");
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "ranks");
    for (cudaEvent_t* event : {&computed_, &communicated_})
      check_cuda(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "ranks");
  }

  ~NcclCommunicator() override {
    cudaStreamSynchronize(stream_);
    ncclCommDestroy(comm_);
    cudaEventDestroy(computed_);
    cudaEventDestroy(communicated_);
    cudaStreamDestroy(stream_);
  }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  int64_t rank() const override { return launch_.rank(); }
  int64_t size() const override { return launch_.size(); }
  int64_t local_rank() const override { return launch_.local_rank(); }

  void all_gather(Tensor& all, const Tensor& mine) override {
    check_gather(all, mine);
    start({all, mine});
    check_nccl(ncclAllGather(mine.raw(), all.raw(), static_cast<size_t>(mine.numel()),
                             nccl_type(mine.dtype()), comm_, stream_),
               "all_gather");
  }

  void all_reduce_sum(Tensor& x) override {
    start({x});
    check_nccl(ncclAllReduce(x.raw(), x.raw(), static_cast<size_t>(x.numel()), nccl_type(x.dtype()),
                             ncclSum, comm_, stream_),
               "all_reduce_sum");
  }

  void broadcast(Tensor& x, int64_t root) override {
    start({x});
    check_nccl(ncclBroadcast(x.raw(), x.raw(), static_cast<size_t>(x.numel()), nccl_type(x.dtype()),
                             static_cast<int>(root), comm_, stream_),
               "broadcast");
  }

  void barrier() override { launch_.barrier(); }

  void wait() override {
    launch_.wait();
    ncclResult_t failure = ncclSuccess;
    check_nccl(ncclCommGetAsyncError(comm_, &failure), "ranks");
    check_nccl(failure, "ranks");
    check_cuda(cudaEventRecord(communicated_, stream_), "ranks");
    check_cuda(cudaStreamWaitEvent(gpu_.compute_stream(), communicated_, 0), "ranks");
    kept_.clear();  // what takes their memory is queued behind the event
  }

  void abort(int exit_status) override { launch_.abort(exit_status); }

 private:
  /// What was computed so far comes first. The arguments' storage lives until wait().
  void start(std::initializer_list<Tensor> arguments) {
    for (const Tensor& x : arguments)
      CLIP_CHECK(&x.backend() == &gpu_, "[ranks] this communicator carries tensors on ",
                 gpu_.device(), ", got one on ", x.backend().device());
    check_cuda(cudaEventRecord(computed_, gpu_.compute_stream()), "ranks");
    check_cuda(cudaStreamWaitEvent(stream_, computed_, 0), "ranks");
    kept_.insert(kept_.end(), arguments);
  }

  Communicator& launch_;
  CudaBackend& gpu_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t computed_ = nullptr, communicated_ = nullptr;
  std::vector<Tensor> kept_;
};

}  // namespace

std::unique_ptr<Communicator> make_gpu_communicator(Communicator& launch, Backend& gpu) {
  if (launch.size() == 1) return make_single_communicator();
  return std::make_unique<NcclCommunicator>(launch, static_cast<CudaBackend&>(gpu));
}

}  // namespace clip
