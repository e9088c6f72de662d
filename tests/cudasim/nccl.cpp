// The part of NCCL that the project calls, over MPI, with one simulated GPU a rank. Ranks that do not
// call the same hang with NCCL; here the program ends and says what they called.
#include <mpi.h>
#include <nccl.h>
#include <unistd.h>

#include <chrono>
#include <climits>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/check.h"
#include "tests/cudasim/error.h"
#include "tests/cudasim/fault.h"
#include "tests/cudasim/memory.h"
#include "tests/cudasim/options.h"
#include "tests/cudasim/sanitizer.h"
#include "tests/cudasim/stream.h"

struct ncclComm {
  MPI_Comm ranks = MPI_COMM_NULL;
  int rank = 0, size = 1;
  int64_t calls = 0;  ///< whose turn has come
};

namespace cudasim {
namespace {

std::string& last_sentence() {
  thread_local std::string sentence;
  return sentence;
}

ncclResult_t refuse(ncclResult_t code, const std::string& reason) {
  last_sentence() = reason;
  return code;
}

// ---- What ranks must agree about
enum Kind : int64_t { kInit, kAllGather, kAllReduce, kBroadcast };
constexpr const char* kNames[] = {"ncclCommInitRank", "ncclAllGather", "ncclAllReduce",
                                  "ncclBroadcast"};

struct Call {
  int64_t kind = 0, count = 0, type = 0;
  int64_t detail = 0;  ///< of a sum: the operation; of a broadcast: the root; of a start: the id
  int64_t number = 0;
  bool operator==(const Call&) const = default;
};
constexpr int kWords = sizeof(Call) / sizeof(int64_t);

std::string shown(const Call& call) {
  return clip::concat(kNames[call.kind], " of ", call.count, " elements of type ", call.type,
                      ", detail ", call.detail, ", call ", call.number);
}

/// Waits for all ranks' calls, but not for ever.
void agree(ncclComm& comm, const Call& mine) {
  std::vector<Call> all(static_cast<size_t>(comm.size));
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallgather(&mine, kWords, MPI_INT64_T, all.data(), kWords, MPI_INT64_T, comm.ranks, &request);
  const auto start = std::chrono::steady_clock::now();
  for (int done = 0; done == 0; ::usleep(50)) {
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - start;
    if (done == 0 && waited.count() > options().nccl_seconds)
      fault(clip::concat("rank ", comm.rank, " waited ", options().nccl_seconds, " s in ",
                         shown(mine), ", which another rank never called"));
  }
  for (int rank = 0; rank < comm.size; ++rank)
    if (const Call& other = all[static_cast<size_t>(rank)]; !(other == mine))
      fault(clip::concat("ranks call different collectives: rank ", comm.rank, " ", shown(mine),
                         "; rank ", rank, " ", shown(other)));
}

int64_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclUint8:
      return 1;
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclFloat32:
      return 4;
    case ncclFloat64:
      return 8;
    default:
      fault(clip::concat("the simulator does not know NCCL's data type ", static_cast<int>(type)));
  }
}

bool overlap(const void* a, int64_t a_bytes, const void* b, int64_t b_bytes) {
  const auto *x = static_cast<const char*>(a), *y = static_cast<const char*>(b);
  return x < y + b_bytes && y < x + a_bytes;
}

/// Puts a collective on the stream if its arguments are what NCCL takes. `in_place` is where `to`
/// and `from` may be one.
template <class Body>
ncclResult_t start(ncclComm_t comm, const Call& call, void* to, int64_t to_bytes, const void* from,
                   int64_t from_bytes, const void* in_place, cudaStream_t stream,
                   const Body& body) {
  const std::lock_guard<std::recursive_mutex> lock(runtime_mutex());
  const std::string name = kNames[call.kind];
  if (comm == nullptr) return refuse(ncclInvalidArgument, name + ": no communicator");
  if (to_bytes > INT_MAX) return refuse(ncclInvalidArgument, name + ": too long to be simulated");
  for (const auto& [address, bytes] :
       {std::pair<const void*, int64_t>{to, to_bytes}, {from, from_bytes}})
    if (bytes > 0 && !is_device_memory(address, bytes))
      return refuse(ncclInvalidArgument,
                    clip::concat(name, ": ", bytes, " bytes at ", address,
                                 " are not inside an allocation of the device"));
  if (from != in_place && overlap(to, to_bytes, from, from_bytes))
    return refuse(ncclInvalidArgument, name + ": the buffers overlap and are not the same");
  const cudaError_t code = enqueue(stream, [=] {
    Call numbered = call;
    numbered.number = comm->calls++;
    agree(*comm, numbered);
    note_read(from, static_cast<size_t>(from_bytes));
    note_write(to, static_cast<size_t>(to_bytes));
    body();
  });
  return code == cudaSuccess ? ncclSuccess
                             : refuse(ncclInvalidArgument, name + ": " + cudaGetErrorString(code));
}

/// to = the sum over ranks, added in their order.
template <class T>
void add_in_order(ncclComm& comm, void* to, const void* from, int64_t count) {
  std::vector<T> all(static_cast<size_t>(count * comm.size));
  const int bytes = static_cast<int>(count * static_cast<int64_t>(sizeof(T)));
  MPI_Allgather(from, bytes, MPI_BYTE, all.data(), bytes, MPI_BYTE, comm.ranks);
  T* out = static_cast<T*>(to);
  for (int64_t i = 0; i < count; ++i) {
    T total = all[static_cast<size_t>(i)];
    for (int rank = 1; rank < comm.size; ++rank)
      total = static_cast<T>(total + all[static_cast<size_t>(rank * count + i)]);
    out[i] = total;
  }
}

}  // namespace
}  // namespace cudasim

// A GPU works while the host waits in MPI: the other ranks' collectives may need it before they come
// there. MPI lets its functions be replaced so.
int MPI_Waitall(int count, MPI_Request requests[], MPI_Status statuses[]) {
  {
    const std::lock_guard<std::recursive_mutex> lock(cudasim::runtime_mutex());
    cudasim::synchronize_device();
  }
  return PMPI_Waitall(count, requests, statuses);
}

using cudasim::Call;

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclSuccess ? "no error" : cudasim::last_sentence().c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::memset(id, 0, sizeof(*id));
  const uint32_t token = std::random_device{}();
  std::memcpy(id, &token, sizeof(token));
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int size, ncclUniqueId id, int rank) {
  const std::lock_guard<std::recursive_mutex> lock(cudasim::runtime_mutex());
  int initialized = 0, world_size = 0, world_rank = 0;
  MPI_Initialized(&initialized);
  if (initialized == 0)
    return cudasim::refuse(ncclSystemError, "MPI, which simulates NCCL, has not been started");
  MPI_Comm_size(MPI_COMM_WORLD, &world_size);
  MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
  if (size != world_size || rank != world_rank)
    return cudasim::refuse(ncclInvalidArgument,
                           clip::concat("rank ", rank, " of ", size, " is rank ", world_rank,
                                        " of ", world_size, " to MPI, which simulates NCCL"));
  auto joined = std::make_unique<ncclComm>();
  MPI_Comm_dup(MPI_COMM_WORLD, &joined->ranks);
  joined->rank = rank;
  joined->size = size;
  uint32_t token = 0;
  std::memcpy(&token, &id, sizeof(token));
  cudasim::agree(*joined, {.kind = cudasim::kInit, .detail = token});
  *comm = joined.release();
  return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  const std::lock_guard<std::recursive_mutex> lock(cudasim::runtime_mutex());
  cudasim::synchronize_device();
  MPI_Comm_free(&comm->ranks);
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* failure) {
  *failure = ncclSuccess;  // failures end the simulation
  return ncclSuccess;
}

ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  const auto elements = static_cast<int64_t>(count);
  const int64_t bytes = elements * cudasim::size_of(type);
  const int64_t size = comm == nullptr ? 1 : comm->size, rank = comm == nullptr ? 0 : comm->rank;
  const Call call{.kind = cudasim::kAllGather, .count = elements, .type = type};
  return cudasim::start(comm, call, to, bytes * size, from, bytes,
                        static_cast<char*>(to) + rank * bytes, stream, [=] {
                          // Through the host's memory, so that sending in place is right.
                          const auto* first = static_cast<const char*>(from);
                          const std::vector<char> mine(first, first + bytes);
                          MPI_Allgather(mine.data(), static_cast<int>(bytes), MPI_BYTE, to,
                                        static_cast<int>(bytes), MPI_BYTE, comm->ranks);
                        });
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  const auto elements = static_cast<int64_t>(count);
  const int64_t bytes = elements * cudasim::size_of(type);
  if (op != ncclSum || type == ncclBfloat16)
    return cudasim::refuse(ncclInvalidArgument,
                           clip::concat("the simulator does not know reduction ",
                                        static_cast<int>(op), " of type ", static_cast<int>(type)));
  const Call call{.kind = cudasim::kAllReduce, .count = elements, .type = type, .detail = op};
  return cudasim::start(comm, call, to, bytes, from, bytes, to, stream, [=] {
    if (type == ncclFloat32) cudasim::add_in_order<float>(*comm, to, from, elements);
    if (type == ncclFloat64) cudasim::add_in_order<double>(*comm, to, from, elements);
    if (type == ncclInt32) cudasim::add_in_order<int32_t>(*comm, to, from, elements);
    if (type == ncclUint8) cudasim::add_in_order<uint8_t>(*comm, to, from, elements);
  });
}

ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  const auto elements = static_cast<int64_t>(count);
  const int64_t bytes = elements * cudasim::size_of(type);
  const Call call{.kind = cudasim::kBroadcast, .count = elements, .type = type, .detail = root};
  return cudasim::start(comm, call, to, bytes, from, bytes, to, stream, [=] {
    if (comm->rank == root) std::memmove(to, from, static_cast<size_t>(bytes));
    MPI_Bcast(to, static_cast<int>(bytes), MPI_BYTE, root, comm->ranks);
  });
}
