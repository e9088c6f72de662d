// Attention in the simulator: no result may depend on the order in which the lanes run.
#include "tests/cuda_attention_cases.h"
#include "tests/cudasim/options.h"

namespace clip {
namespace {

template <class T>
AttentionResults run_with(Backend& gpu, cudasim::LaneOrder order, const AttentionCase& c) {
  cudasim::options().lanes = order;
  return run_attention<T, T, float>(gpu, c);
}

template <class T>
void expect_equal_bits_for_every_order(const AttentionCase& c) {
  SCOPED_TRACE(describe(c));
  const std::unique_ptr<Backend> gpu = make_cuda_backend(0);
  const cudasim::LaneOrder before = cudasim::options().lanes;
  const AttentionResults first = run_with<T>(*gpu, cudasim::LaneOrder::kAscending, c);
  for (cudasim::LaneOrder order : {cudasim::LaneOrder::kDescending, cudasim::LaneOrder::kRandom}) {
    const AttentionResults other = run_with<T>(*gpu, order, c);
    EXPECT_EQ(first.y, other.y);
    EXPECT_EQ(first.log_sum_exp, other.log_sum_exp);
    EXPECT_EQ(first.dq, other.dq);
    EXPECT_EQ(first.dk, other.dk);
    EXPECT_EQ(first.dv, other.dv);
  }
  cudasim::options().lanes = before;
}

TEST(CudasimAttention, GivesEqualBitsInEveryLaneOrder) {
  for (Causal causal : {Causal::kNo, Causal::kYes}) {
    const AttentionCase c = self_attention({17, 4, 77, 1, 50}, 2, 64, causal);
    expect_equal_bits_for_every_order<float>(c);
    expect_equal_bits_for_every_order<__nv_bfloat16>(c);
    expect_equal_bits_for_every_order<__nv_bfloat16>(self_attention({17, 40}, 1, 80, causal));
  }
}

}  // namespace
}  // namespace clip
