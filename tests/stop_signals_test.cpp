// A signal that asks a program to stop, while it computes.
#include <gtest/gtest.h>
#include <omp.h>
#include <signal.h>
#include <time.h>

#include "apps/common/program.h"
#include "engine/backend.h"
#include "tests/child_process.h"

namespace clip {
namespace {

void send_later(int signal, int64_t nanoseconds) {
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = signal;
  timer_t timer{};
  itimerspec at{};
  at.it_value.tv_nsec = nanoseconds;
  // In a child an ASSERT would leave this function alone, and the child would wait for the signal.
  CLIP_CHECK(::timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "cannot make a timer");
  CLIP_CHECK(::timer_settime(timer, 0, &at, nullptr) == 0, "cannot start a timer");
}

/// Products of one shape in F32, which oneDNN computes.
void multiply(int64_t count) {
  const Tensor a = Tensor::zeros(cpu_backend(), {200, 190}, DType::kF32);
  const Tensor b = Tensor::zeros(cpu_backend(), {190, 256}, DType::kF32);
  Tensor c = Tensor::zeros(cpu_backend(), {200, 256}, DType::kF32);
  for (int64_t i = 0; i < count; ++i)
    cpu_backend().matmul(c, a, Transpose::kNo, b, Transpose::kNo, {});
}

TEST(StopSignals, LeaveAProductsMemoryWhole) {
  for (int attempt = 0; attempt < 20; ++attempt) {
    const int status = in_child([&] {
      omp_set_num_threads(1);
      receive_stop_signals();
      catch_stop_signals();
      multiply(10);
      send_later(SIGUSR1, 1'000'000 + 37'000 * attempt);
      send_later(SIGINT, 2'000'000 + 37'000 * attempt);
      send_later(SIGTERM, 3'000'000 + 37'000 * attempt);
      while (!stop_requested()) multiply(1);
      multiply(200);
      return 0;
    });
    ASSERT_EQ(status, 0) << "attempt " << attempt;
  }
}

TEST(StopSignals, EndTheProgramUntilTheyAreCaughtAndWhenTheyComeTwice) {
  const auto status_after = [](bool catching, int signals) {
    return in_child([&] {
      receive_stop_signals();
      if (catching) catch_stop_signals();
      for (int i = 0; i < signals; ++i) {
        ::kill(::getpid(), SIGTERM);
        while (i == 0 && !stop_requested()) ::usleep(100);
      }
      ::sleep(signals > 1 ? 10 : 0);
      return 0;
    });
  };
  EXPECT_EQ(status_after(true, 1), 0);
  EXPECT_EQ(status_after(true, 2), -SIGTERM);
  EXPECT_EQ(status_after(false, 1), -SIGTERM);
}

}  // namespace
}  // namespace clip
