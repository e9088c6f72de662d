// The losses' memory grows with G, not with G².
#include <gtest/gtest.h>

#include <functional>

#include "autograd/ops.h"
#include "tests/counting_backend.h"
#include "tests/one_of_many_ranks.h"
#include "tests/op_cases.h"

namespace clip {
namespace {

using Loss = std::function<Variable(const std::vector<Variable>& inputs, Communicator& comm)>;

constexpr int64_t kWidth = 16, kTile = 32;

/// Bytes above the inputs', at their peak, of forward and backward for `rows` of a rank's pairs.
int64_t peak_bytes(const Loss& loss_of, int64_t rows, int64_t ranks) {
  CountingBackend backend;
  const auto inputs =
      random_inputs({}, {{rows, kWidth}, {rows, kWidth}, {}, {}}, DType::kF32, backend, 1);
  const int64_t before = backend.now();
  OneOfManyRanks comm(ranks);
  Tape tape;
  tape.backward(loss_of(inputs, comm));
  return backend.peak() - before;
}

void expect_linear_growth(const Loss& loss_of) {
  const int64_t number = 4;  // bytes of an F32
  // A rank's own rows alone: [N, tile] beside [N, E] gradients and statistics [N].
  const int64_t small = peak_bytes(loss_of, 512, 1), large = peak_bytes(loss_of, 4096, 1);
  EXPECT_LT(large, 8 * small + 1024);
  EXPECT_LT(large, number * 4096 * (kTile + 4 * kWidth + 16));
  EXPECT_LT(large, number * 4096 * 4096 / 10);  // the matrix has 64 MiB
  // More ranks: the gathered embeddings and log-sum-exps grow, and nothing else.
  const int64_t many = peak_bytes(loss_of, 512, 64), more = peak_bytes(loss_of, 512, 128);
  EXPECT_LE(more - many, number * 512 * 64 * (2 * kWidth + 2));
}

TEST(LossMemory, OfTheSoftmaxLossGrowsLinearly) {
  expect_linear_growth([](const auto& in, Communicator& comm) {
    return clip_loss(in[0], in[1], in[2], comm, kTile);
  });
}

TEST(LossMemory, OfTheSigmoidLossGrowsLinearly) {
  expect_linear_growth([](const auto& in, Communicator& comm) {
    return siglip_loss(in[0], in[1], in[2], in[3], comm, kTile);
  });
}

}  // namespace
}  // namespace clip
