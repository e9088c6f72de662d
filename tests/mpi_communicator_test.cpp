// Collectives over MPI. The program starts itself again under mpirun, where ranks run the suites
// OnRanks; it runs them itself too, as a run of one process.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "engine/backend.h"
#include "engine/communicator.h"
#include "engine/launcher.h"
#include "engine/random.h"
#include "tests/run_command.h"

namespace clip {
namespace {

constexpr int64_t kLargest = 1024;  // bytes of one MPI call: most messages below are cut
// Elements: none, one, less than a piece of each dtype, ragged pieces.
constexpr int64_t kSizes[] = {0, 1, 31, 128, 129, 1023, 5001};

Communicator& ranks() {
  static const auto joined = make_communicator(kLargest);
  return *joined;
}

/// Numbers from the rank, the same whenever they are made: whole ones from 0 to 50 where
/// 3 of them cannot overflow.
template <class T>
Tensor numbers(int64_t rank, int64_t count) {
  Random random(7, static_cast<uint64_t>(rank));
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values)
    value = std::is_floating_point_v<T> ? static_cast<T>(random.uniform() - 0.5)
                                        : static_cast<T>(random.below(50));
  return Tensor::from(cpu_backend(), {count}, values);
}

template <class T>
class OnRanks : public testing::Test {};
using Numbers = testing::Types<float, double, int32_t, uint8_t>;
TYPED_TEST_SUITE(OnRanks, Numbers);

TYPED_TEST(OnRanks, GatherPutsThePartsInTheOrderOfRanks) {
  for (const int64_t count : kSizes) {
    Tensor all = Tensor::zeros(cpu_backend(), {count * ranks().size()}, kDTypeOf<TypeParam>);
    ranks().all_gather(all, numbers<TypeParam>(ranks().rank(), count));
    ranks().wait();
    for (int64_t rank = 0; rank < ranks().size(); ++rank)
      EXPECT_EQ(all.slice(rank * count, (rank + 1) * count).template to_vector<TypeParam>(),
                numbers<TypeParam>(rank, count).template to_vector<TypeParam>())
          << count << " of rank " << rank;
  }
}

TYPED_TEST(OnRanks, SumHasTheSameBitsOnAllRanksAndEveryTime) {
  for (const int64_t count : kSizes) {
    std::vector<TypeParam> first;
    for (int64_t time = 0; time < 3; ++time) {
      Tensor sum = numbers<TypeParam>(ranks().rank(), count);
      ranks().all_reduce_sum(sum);
      ranks().wait();
      const auto values = sum.template to_vector<TypeParam>();
      if (time == 0) first = values;
      EXPECT_TRUE(count == 0 ||
                  std::memcmp(values.data(), first.data(), values.size() * sizeof(TypeParam)) == 0);

      Tensor all = Tensor::empty(cpu_backend(), {count * ranks().size()}, sum.dtype());
      ranks().all_gather(all, sum);
      ranks().wait();
      for (int64_t rank = 0; rank < ranks().size(); ++rank)
        EXPECT_EQ(all.slice(rank * count, (rank + 1) * count).template to_vector<TypeParam>(),
                  values);
    }
    std::vector<double> expected(first.size());
    for (int64_t rank = 0; rank < ranks().size(); ++rank) {
      const auto part = numbers<TypeParam>(rank, count).template to_vector<TypeParam>();
      for (size_t i = 0; i < part.size(); ++i) expected[i] += static_cast<double>(part[i]);
    }
    for (size_t i = 0; i < first.size(); ++i)  // 0.5 a number, one rounding of F32 each
      EXPECT_NEAR(static_cast<double>(first[i]), expected[i], 3e-7);
  }
}

TYPED_TEST(OnRanks, BroadcastGivesAllRanksTheNumbersOfTheRoot) {
  for (const int64_t count : kSizes)
    for (int64_t root = 0; root < ranks().size(); ++root) {
      Tensor x = numbers<TypeParam>(ranks().rank(), count);
      ranks().broadcast(x, root);
      ranks().wait();
      EXPECT_EQ(x.template to_vector<TypeParam>(),
                numbers<TypeParam>(root, count).template to_vector<TypeParam>());
    }
}

TYPED_TEST(OnRanks, ManyCallsMayBeUnderWayAtOnce) {
  std::vector<Tensor> sums;
  for (const int64_t count : kSizes) {
    Tensor part = numbers<TypeParam>(ranks().rank(), count);
    sums.push_back(Tensor::zeros(cpu_backend(), {count * ranks().size()}, part.dtype()));
    ranks().all_gather(sums.back(), part);  // the part is kept although this was its last use
    sums.push_back(part.clone());
    ranks().all_reduce_sum(sums.back());
    ranks().barrier();
  }
  ranks().wait();
  for (size_t i = 0; i < sums.size(); i += 2) {
    std::vector<double> total(static_cast<size_t>(sums[i + 1].numel()));
    const auto all = sums[i].template to_vector<TypeParam>();
    for (size_t k = 0; k < all.size(); ++k) total[k % total.size()] += static_cast<double>(all[k]);
    const auto sum = sums[i + 1].template to_vector<TypeParam>();
    for (size_t k = 0; k < sum.size(); ++k)
      EXPECT_NEAR(static_cast<double>(sum[k]), total[k], 3e-7);
  }
}

TEST(AllOnRanks, PlacesOnOneMachineAreTheRanksThemselves) {
  EXPECT_EQ(ranks().size(), launched_ranks());
  EXPECT_EQ(ranks().local_rank(), ranks().rank());
}

class Mpirun : public testing::TestWithParam<int64_t> {};

TEST_P(Mpirun, JoinsRanks) {
  if (mpirun(1).empty()) GTEST_SKIP() << "no mpirun";
  const CommandResult result = run_tests_on_ranks(GetParam(), "*OnRanks*");
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_NE(result.output.find("[  PASSED  ]"), std::string::npos) << result.output;
}

INSTANTIATE_TEST_SUITE_P(Ranks, Mpirun, testing::Values(2, 3));

TEST(MakeCommunicator, IsTheSingleOneWhereNobodyStartedMore) {
  const auto alone = make_communicator();
  EXPECT_EQ(alone->size(), 1);
  alone->abort(1);  // one process ends itself
}

TEST(MakeCommunicator, RefusesRanksOfAnotherLauncher) {
  const CommandResult result = run_command(concat(
      "OMPI_MCA_plm=isolated PMI_SIZE=3 /proc/", ::getpid(), "/exe --gtest_filter='AllOnRanks.*'"));
  EXPECT_NE(result.status, 0);
  EXPECT_NE(result.output.find("3 processes were started together, but"), std::string::npos)
      << result.output;
}

}  // namespace
}  // namespace clip
