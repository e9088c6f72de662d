// One block of a grid: its threads, warps and barrier. Blocks run one after the other.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tests/cudasim/cuda/launch.cuh"
#include "tests/cudasim/device.h"
#include "tests/cudasim/fiber.h"

namespace cudasim {

inline constexpr int kWarpSize = 32;
inline constexpr int kMaxBlockThreads = 1024;

struct Warp;

/// What the lanes of a warp do together, done once, when the last of them has arrived.
using WarpFunction = void (*)(Warp& warp, unsigned lanes);

enum class Waits : uint8_t { kNot, kForWarp, kForBlock, kForever };

/// A copy to shared memory under way.
struct AsyncCopy {
  void* shared;
  const void* global;
  int group;
  Site site;
};

struct Thread {
  Fiber* fiber = nullptr;  ///< none: not started yet
  Warp* warp = nullptr;
  int index = 0;
  int lane = 0;
  uint3 position = {};
  Waits waits = Waits::kNot;
  const char* call = "";  ///< the function it waits in, or waited in last
  Site site;
  WarpFunction function = nullptr;
  unsigned mask = 0;
  void* argument = nullptr;  ///< of the warp function; on the thread's stack
  int predicate = 0;
  unsigned block_barriers = 0;  ///< passed so far
  unsigned warp_barriers = 0;
  int copy_groups = 0;  ///< committed so far
  std::vector<AsyncCopy> copies;
};

struct Warp {
  Thread* threads = nullptr;  ///< of lane 0
  int index = 0;
  // A bit for each lane. Lanes beyond the block's size count as gone.
  unsigned gone = 0;
  unsigned waiting = 0;
  unsigned runnable = 0;
};

/// ThreadSanitizer's view of the order inside a block and of the whole grid. Made anew for each, so
/// that blocks do not look ordered.
struct BlockClocks {
  uint64_t block[2];
  uint64_t warp[kMaxBlockThreads / kWarpSize][2];
};
struct GridClocks {
  uint64_t start;
  uint64_t end;
};

/// Fibers that are not in use. Under ThreadSanitizer each holds an identity, and a stream has its own.
struct FiberPool {
  std::vector<Fiber*> idle;
  std::vector<Fiber*> by_thread[2];  ///< for even and odd blocks
};

/// Runs all blocks of a grid, in the lane order of options().
void run_grid(const Launch& launch, FiberPool& pool);

/// "" outside kernels; the kernel with its place, block and thread otherwise.
std::string running_kernel();
/// The running thread; a fault outside kernels.
Thread& running_thread(const char* call, Site site);
/// Lets the running thread take part in a function of its warp's lanes in `mask`.
void join_warp(const char* call, WarpFunction function, unsigned mask, void* argument, Site site);
/// Is [address, address + bytes) in the running block's shared memory?
bool is_shared(const void* address, int64_t bytes);
std::string describe(Site site);

}  // namespace cudasim
