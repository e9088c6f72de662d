// The ranks that mpirun or srun started; chosen at link time where there is MPI.
#include <mpi.h>

#include <algorithm>
#include <string>
#include <vector>

#include "engine/backend.h"
#include "engine/communicator.h"
#include "engine/launcher.h"

namespace clip {
namespace {

/// The one check of MPI's calls.
void check_mpi(int status, const char* call) {
  if (status == MPI_SUCCESS) return;
  char reason[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(status, reason, &length);
  throw Error(concat("[ranks] ", call, " failed: ", reason));
}

MPI_Datatype mpi_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return MPI_FLOAT;
    case DType::kF64:
      return MPI_DOUBLE;
    case DType::kI32:
      return MPI_INT32_T;
    case DType::kU8:
      return MPI_UINT8_T;
    case DType::kBF16:
      break;
  }
  throw Error(concat("[ranks] numbers of type ", dtype, " cannot be summed over ranks"));
}

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(int64_t largest_message) : largest_(largest_message) {
    int threads = 0;
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &threads), "MPI_Init_thread");
    // Before anything else can fail, so that a failure is an exception.
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
    MPI_Comm machine = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine),
              "MPI_Comm_split_type");
    check_mpi(MPI_Comm_rank(machine, &local_rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_free(&machine), "MPI_Comm_free");
  }

  ~MpiCommunicator() override { MPI_Finalize(); }

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }
  int64_t local_rank() const override { return local_rank_; }

  void all_gather(Tensor& all, const Tensor& mine) override {
    check_host(all);
    check_host(mine);
    check_gather(all, mine);
    for_pieces(mine.bytes(), [&](int64_t begin, int count) {
      // The piece of rank r belongs at r * mine.bytes() + begin: a type of that extent says so.
      MPI_Datatype bytes = MPI_DATATYPE_NULL, piece = MPI_DATATYPE_NULL;
      check_mpi(MPI_Type_contiguous(count, MPI_BYTE, &bytes), "MPI_Type_contiguous");
      check_mpi(MPI_Type_create_resized(bytes, 0, mine.bytes(), &piece), "MPI_Type_create_resized");
      check_mpi(MPI_Type_commit(&piece), "MPI_Type_commit");
      check_mpi(MPI_Iallgather(at(mine, begin), count, MPI_BYTE, at(all, begin), 1, piece,
                               MPI_COMM_WORLD, start()),
                "MPI_Iallgather");
      check_mpi(MPI_Type_free(&piece), "MPI_Type_free");
      check_mpi(MPI_Type_free(&bytes), "MPI_Type_free");
    });
    keep({all, mine});
  }

  void all_reduce_sum(Tensor& x) override {
    check_host(x);
    const MPI_Datatype type = mpi_type(x.dtype());
    const int64_t element = size_of(x.dtype());
    for_pieces(x.bytes(), [&](int64_t begin, int count) {
      check_mpi(MPI_Iallreduce(MPI_IN_PLACE, at(x, begin), static_cast<int>(count / element), type,
                               MPI_SUM, MPI_COMM_WORLD, start()),
                "MPI_Iallreduce");
    });
    keep({x});
  }

  void broadcast(Tensor& x, int64_t root) override {
    check_host(x);
    for_pieces(x.bytes(), [&](int64_t begin, int count) {
      check_mpi(MPI_Ibcast(at(x, begin), count, MPI_BYTE, static_cast<int>(root), MPI_COMM_WORLD,
                           start()),
                "MPI_Ibcast");
    });
    keep({x});
  }

  void barrier() override { check_mpi(MPI_Ibarrier(MPI_COMM_WORLD, start()), "MPI_Ibarrier"); }

  void wait() override {
    check_mpi(MPI_Waitall(static_cast<int>(running_.size()), running_.data(), MPI_STATUSES_IGNORE),
              "MPI_Waitall");
    running_.clear();
    kept_.clear();
  }

  void abort(int exit_status) override { MPI_Abort(MPI_COMM_WORLD, exit_status); }

 private:
  /// This rank's number in a group, and the group's size.
  static void check_host(const Tensor& x) {
    CLIP_CHECK(x.backend().device().kind == Device::Kind::kCpu,
               "[ranks] this communicator carries tensors on the CPU, got one on ",
               x.backend().device());
  }

  static std::byte* at(const Tensor& x, int64_t offset) {
    return static_cast<std::byte*>(x.raw()) + offset;
  }

  /// Cuts a message, whole elements a piece, at places that depend on its size alone.
  template <class Body>
  void for_pieces(int64_t bytes, const Body& body) const {
    for (int64_t begin = 0; begin < bytes; begin += largest_)
      body(begin, static_cast<int>(std::min(largest_, bytes - begin)));
  }

  MPI_Request* start() { return &running_.emplace_back(MPI_REQUEST_NULL); }

  /// Their storage lives until wait(). MPI moves data only inside its calls: a look at what runs
  /// already takes it a step further.
  void keep(std::initializer_list<Tensor> arguments) {
    kept_.insert(kept_.end(), arguments);
    int done = 0;
    check_mpi(
        MPI_Testall(static_cast<int>(running_.size()), running_.data(), &done, MPI_STATUSES_IGNORE),
        "MPI_Testall");
  }

  int64_t largest_;
  int rank_ = 0, size_ = 1, local_rank_ = 0;
  std::vector<MPI_Request> running_;
  std::vector<Tensor> kept_;
};

}  // namespace

std::unique_ptr<Communicator> make_communicator(int64_t largest_message) {
  CLIP_CHECK(0 < largest_message && largest_message <= kLargestMessage && largest_message % 8 == 0,
             "[ranks] the largest message must be a multiple of 8 bytes, at most ", kLargestMessage,
             ", got ", largest_message);
  if (launched_ranks() == 1) return make_single_communicator();
  auto joined = std::make_unique<MpiCommunicator>(largest_message);
  CLIP_CHECK(joined->size() > 1, "[ranks] ", launched_ranks(),
             " processes were started together, but MPI finds this one alone: the launcher is not "
             "of the MPI of this build (try its own mpirun, or srun --mpi=pmix)");
  return joined;
}

}  // namespace clip
