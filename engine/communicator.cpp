#include "engine/communicator.h"

#include "engine/backend.h"

namespace clip {
namespace {

class SingleCommunicator final : public Communicator {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  void all_gather(Tensor& all, const Tensor& mine) override { all.backend().copy(all, mine); }
  void all_reduce_sum(Tensor&) override {}
  void broadcast(Tensor&, int64_t) override {}
  void barrier() override {}
  void wait() override {}
};

}  // namespace

void Communicator::check_gather(const Tensor& all, const Tensor& mine) const {
  CLIP_CHECK(all.bytes() == mine.bytes() * size() && all.dtype() == mine.dtype(), "[all_gather] ",
             size(), " times ", mine.dtype(), " ", mine.shape(), " do not fit into ", all.dtype(),
             " ", all.shape());
}

Tensor gathered(const Tensor& mine, Communicator& comm) {
  Tensor all = Tensor::empty(mine.backend(), mine.shape().with_first(mine.size(0) * comm.size()),
                             mine.dtype());
  comm.all_gather(all, mine);
  return all;
}

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>();
}

}  // namespace clip
