#include "tests/thread_ranks.h"

#include "engine/backend.h"

namespace clip {

void ThreadCommunicator::publish(const Tensor& x) {
  ranks_.published[static_cast<size_t>(rank_)] = &x;
  barrier();
}

void ThreadCommunicator::all_gather(Tensor& all, const Tensor& mine) {
  publish(mine);
  int64_t row = 0;
  for (const Tensor* part : ranks_.published) {
    Tensor rows = all.slice(row, row + part->size(0));
    rows.backend().copy(rows, *part);
    row += part->size(0);
  }
  barrier();  // the parts are read: their owners may go on
}

void ThreadCommunicator::all_reduce_sum(Tensor& x) {
  publish(x);
  Tensor total = ranks_.published[0]->clone();
  for (size_t rank = 1; rank < ranks_.published.size(); ++rank)
    total.backend().add(total, *ranks_.published[rank]);
  barrier();
  x.backend().copy(x, total);
}

void ThreadCommunicator::broadcast(Tensor& x, int64_t root) {
  publish(x);
  const Tensor sent = ranks_.published[static_cast<size_t>(root)]->clone();
  barrier();
  x.backend().copy(x, sent);
}

}  // namespace clip
