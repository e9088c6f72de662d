#include "tests/cudasim/block.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <memory>
#include <optional>

#include "engine/check.h"
#include "tests/cudasim/cuda/dynamic_shared.cuh"
#include "tests/cudasim/fault.h"
#include "tests/cudasim/options.h"
#include "tests/cudasim/sanitizer.h"
#include "tests/cudasim/shared_memory.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace cudasim {
namespace {

/// SplitMix64
uint64_t random_bits(uint64_t& state) {
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

int random_bit_of(unsigned mask, uint64_t& state) {
  const unsigned set = static_cast<unsigned>(std::popcount(mask));
  for (unsigned skip = static_cast<unsigned>(random_bits(state) % set); skip > 0; --skip)
    mask &= mask - 1;
  return std::countr_zero(mask);
}

bool is_same(const Site& a, const Site& b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

class Block {
 public:
  Block(const Launch& launch, FiberPool& pool);

  void run(const uint3& index, int64_t number);
  /// The running thread waits, as its `waits` says; others run until it may go on.
  void wait();
  /// The running thread has returned from the kernel: whoever is next, or null at the block's end.
  Thread* finish_thread();
  void join_barrier(BlockVote vote, int predicate, Site site);
  bool try_complete(Warp& warp, const Thread& waiting);
  void become(Thread& thread);
  void leave_for(Thread* thread);

  const Launch& launch;
  Thread* thread = nullptr;  ///< the running one
  std::unique_ptr<GridClocks> grid_clocks{new GridClocks};
  std::unique_ptr<BlockClocks> clocks;
  std::optional<SharedMemory> shared;
  // Of the barrier released last.
  int voters = 0;
  int votes = 0;
  bool reuse_fibers = !under_thread_sanitizer();

 private:
  void start(int64_t number);
  void finish();
  Thread* pick();
  Fiber* fiber_for(const Thread& thread);
  void make_runnable(Warp& warp, unsigned lanes);
  void release_barrier();
  [[noreturn]] void report_deadlock();

  FiberPool& pool_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  Fiber host_;
  unsigned runnable_warps_ = 0;
  int gone_ = 0;
  int arrived_ = 0;
  int arrived_votes_ = 0;
  const Thread* first_arrived_ = nullptr;
  uint64_t random_ = options().seed;
  int64_t number_ = 0;
};

Block* running = nullptr;

// A fiber runs one thread after the other as long as they need no second stack: kernels without
// barriers are plain loops.
void fiber_main() {
  for (;;) {
    Block& block = *running;
    take_over(&block.grid_clocks->start);
    block.launch.body();
    Thread* next = block.finish_thread();
    if (next != nullptr && next->fiber == nullptr && block.reuse_fibers) {
      next->fiber = block.thread->fiber;
      block.become(*next);
    } else {
      block.leave_for(next);
    }
  }
}

Block::Block(const Launch& grid, FiberPool& pool) : launch(grid), pool_(pool) {
  const dim3& shape = launch.block;
  const int count = static_cast<int>(shape.x * shape.y * shape.z);
  threads_.resize(static_cast<size_t>(count));
  warps_.resize(static_cast<size_t>((count + kWarpSize - 1) / kWarpSize));
  for (int i = 0; i < count; ++i) {
    Thread& t = threads_[static_cast<size_t>(i)];
    const unsigned flat = static_cast<unsigned>(i);
    t.index = i;
    t.lane = i % kWarpSize;
    t.warp = &warps_[static_cast<size_t>(i / kWarpSize)];
    t.position = {flat % shape.x, flat / shape.x % shape.y, flat / shape.x / shape.y};
  }
  for (size_t w = 0; w < warps_.size(); ++w) {
    warps_[w].index = static_cast<int>(w);
    warps_[w].threads = &threads_[w * kWarpSize];
  }
  host_.identity = current_identity();
}

void Block::start(int64_t number) {
  const WithoutHistory fresh;
  number_ = number;
  if (!reuse_fibers) {
    // One identity and one stack for each thread; neighbouring blocks share none.
    clocks = std::make_unique<BlockClocks>();
    std::vector<Fiber*>& fibers = pool_.by_thread[number % 2];
    while (fibers.size() < threads_.size()) fibers.push_back(make_fiber(fiber_main));
  }
  shared.emplace(launch.shared_bytes);
  // All blocks have the same static arrays: to ThreadSanitizer, one must look later than the other.
  if (has_static_shared()) {
    take_over(&grid_clocks->end);
    hand_over(&grid_clocks->start);
  }
  for (Thread& t : threads_) {
    t.fiber = nullptr;
    t.waits = Waits::kNot;
    t.block_barriers = t.warp_barriers = 0;
    t.copy_groups = 0;
  }
  runnable_warps_ = 0;
  gone_ = arrived_ = 0;
  first_arrived_ = nullptr;
  int left = static_cast<int>(threads_.size());
  for (Warp& warp : warps_) {
    const unsigned lanes = left >= kWarpSize ? ~0u : (1u << left) - 1;
    warp.gone = ~lanes;
    warp.waiting = warp.runnable = 0;
    make_runnable(warp, lanes);
    left -= kWarpSize;
  }
}

void Block::finish() {
  const WithoutHistory fresh;
  shared.reset();
  clocks.reset();
}

void Block::run(const uint3& index, int64_t number) {
  start(number);
  blockIdx = index;
  Block* outer = running;
  running = this;
  Thread* first = pick();
  first->fiber = fiber_for(*first);
  become(*first);
  switch_fiber(host_, *first->fiber);
  running = outer;
  thread = nullptr;
  finish();
}

Thread* Block::pick() {
  if (runnable_warps_ == 0) return nullptr;
  int w = 0, lane = 0;
  switch (options().lanes) {
    case LaneOrder::kAscending:
      w = std::countr_zero(runnable_warps_);
      lane = std::countr_zero(warps_[static_cast<size_t>(w)].runnable);
      break;
    case LaneOrder::kDescending:
      w = 31 - std::countl_zero(runnable_warps_);
      lane = 31 - std::countl_zero(warps_[static_cast<size_t>(w)].runnable);
      break;
    case LaneOrder::kRandom:
      w = random_bit_of(runnable_warps_, random_);
      lane = random_bit_of(warps_[static_cast<size_t>(w)].runnable, random_);
      break;
  }
  Warp& warp = warps_[static_cast<size_t>(w)];
  warp.runnable &= ~(1u << lane);
  if (warp.runnable == 0) runnable_warps_ &= ~(1u << w);
  return &warp.threads[lane];
}

Fiber* Block::fiber_for(const Thread& t) {
  if (reuse_fibers) {
    if (pool_.idle.empty()) return make_fiber(fiber_main);
    Fiber* fiber = pool_.idle.back();
    pool_.idle.pop_back();
    return fiber;
  }
  return pool_.by_thread[number_ % 2][static_cast<size_t>(t.index)];
}

void Block::become(Thread& next) {
  thread = &next;
  next.waits = Waits::kNot;
  threadIdx = next.position;
}

void Block::leave_for(Thread* next) {
  Fiber& self = *thread->fiber;
  if (thread->waits == Waits::kForever && reuse_fibers) pool_.idle.push_back(&self);
  if (next == nullptr) return switch_fiber(self, host_);
  if (next->fiber == nullptr) next->fiber = fiber_for(*next);
  become(*next);
  switch_fiber(self, *next->fiber);
}

void Block::wait() {
  Thread* next = pick();
  if (next == nullptr) report_deadlock();
  if (next == thread) return become(*next);
  leave_for(next);
}

void Block::make_runnable(Warp& warp, unsigned lanes) {
  warp.runnable |= lanes;
  if (lanes != 0) runnable_warps_ |= 1u << warp.index;
}

Thread* Block::finish_thread() {
  Thread& me = *thread;
  if (!me.copies.empty()) {
    const AsyncCopy& copy = me.copies.front();
    const bool committed = copy.group < me.copy_groups;
    fault(clip::concat("the thread ends without waiting for its cp.async of ", describe(copy.site),
                       committed ? "" : ", which it never committed"));
  }
  hand_over(&grid_clocks->end);
  me.waits = Waits::kForever;
  ++gone_;
  Warp& warp = *me.warp;
  warp.gone |= 1u << me.lane;
  for (unsigned lanes = warp.waiting; lanes != 0; lanes &= lanes - 1)
    if (try_complete(warp, warp.threads[std::countr_zero(lanes)])) break;
  if (arrived_ > 0 && arrived_ + gone_ == static_cast<int>(threads_.size())) release_barrier();
  if (gone_ == static_cast<int>(threads_.size())) return nullptr;
  Thread* next = pick();
  if (next == nullptr) report_deadlock();
  return next;
}

void Block::join_barrier(BlockVote vote, int predicate, Site site) {
  Thread& me = *thread;
  if (arrived_ > 0 && !is_same(first_arrived_->site, site))
    fault(clip::concat("divergent barriers: thread ", first_arrived_->index, " waits in ",
                       first_arrived_->call, " of ", describe(first_arrived_->site), ", thread ",
                       me.index, " in the one of ", describe(site)));
  me.call = vote == BlockVote::kNone ? "__syncthreads" : "__syncthreads with a vote";
  me.site = site;
  me.waits = Waits::kForBlock;
  if (arrived_ == 0) {
    first_arrived_ = &me;
    arrived_votes_ = 0;
  }
  ++arrived_;
  if (predicate != 0) ++arrived_votes_;
  if (arrived_ + gone_ == static_cast<int>(threads_.size())) release_barrier();
}

void Block::release_barrier() {
  voters = arrived_;
  votes = arrived_votes_;
  arrived_ = 0;
  for (Warp& warp : warps_) make_runnable(warp, ~warp.gone & ~warp.waiting);
}

bool Block::try_complete(Warp& warp, const Thread& waiting) {
  const unsigned lanes = waiting.mask & ~warp.gone;
  if ((warp.waiting & lanes) != lanes) return false;
  for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
    const Thread& other = warp.threads[std::countr_zero(rest)];
    if (other.mask != waiting.mask || other.function != waiting.function) return false;
  }
  waiting.function(warp, lanes);
  warp.waiting &= ~lanes;
  make_runnable(warp, lanes);
  return true;
}

void Block::report_deadlock() {
  std::map<std::string, std::vector<int>> places;
  for (const Thread& t : threads_) {
    std::string place = "gone";
    if (t.waits != Waits::kForever) place = clip::concat(t.call, " of ", describe(t.site));
    if (t.waits == Waits::kForWarp) place += clip::concat(", mask 0x", std::hex, t.mask);
    places[place].push_back(t.index);
  }
  std::string table;
  for (const auto& [place, indices] : places)
    table += clip::concat("\n    ", indices.size(), " threads (", indices.front(),
                          indices.size() > 1 ? " ..." : "", "): ", place);
  fault("deadlock: no thread of the block can go on; they wait here" + table);
}

}  // namespace

void run_grid(const Launch& launch, FiberPool& pool) {
  blockDim = launch.block;
  gridDim = launch.grid;
  Block block(launch, pool);
  hand_over(&block.grid_clocks->start);
  int64_t number = 0;
  for (unsigned z = 0; z < launch.grid.z; ++z)
    for (unsigned y = 0; y < launch.grid.y; ++y)
      for (unsigned x = 0; x < launch.grid.x; ++x) block.run({x, y, z}, number++);
  take_over(&block.grid_clocks->end);
}

int block_barrier(BlockVote vote, int predicate, Site site) {
  Thread& me = running_thread("__syncthreads", site);
  Block& block = *running;
  uint64_t* clock = block.clocks ? &block.clocks->block[me.block_barriers++ % 2] : nullptr;
  hand_over(clock);
  block.join_barrier(vote, predicate, site);
  block.wait();
  take_over(clock);
  switch (vote) {
    case BlockVote::kCount:
      return block.votes;
    case BlockVote::kAnd:
      return block.votes == block.voters;
    case BlockVote::kOr:
      return block.votes > 0;
    case BlockVote::kNone:
      break;
  }
  return 0;
}

void join_warp(const char* call, WarpFunction function, unsigned mask, void* argument, Site site) {
  Thread& me = running_thread(call, site);
  Warp& warp = *me.warp;
  const unsigned own = 1u << me.lane;
  if ((mask & own) == 0)
    fault(clip::concat("lane ", me.lane, " calls ", call, " of ", describe(site), " with mask 0x",
                       std::hex, mask, ", which does not name it"));
  for (unsigned rest = warp.waiting & mask; rest != 0; rest &= rest - 1) {
    const Thread& other = warp.threads[std::countr_zero(rest)];
    const bool same = other.function == function && other.mask == mask && is_same(other.site, site);
    if (same) break;  // whoever else waits in this mask agreed with that lane when it arrived
    if ((other.mask & own) != 0)
      fault(clip::concat("lanes of one warp disagree: lane ", other.lane, " waits in ", other.call,
                         " of ", describe(other.site), " with mask 0x", std::hex, other.mask,
                         std::dec, ", lane ", me.lane, " calls ", call, " of ", describe(site),
                         " with mask 0x", std::hex, mask));
  }
  me.call = call;
  me.site = site;
  me.function = function;
  me.mask = mask;
  me.argument = argument;
  me.waits = Waits::kForWarp;
  warp.waiting |= own;
  running->try_complete(warp, me);
  running->wait();
}

void warp_barrier(unsigned mask, Site site) {
  Thread& me = running_thread("__syncwarp", site);
  uint64_t* clock =
      running->clocks ? &running->clocks->warp[me.warp->index][me.warp_barriers++ % 2] : nullptr;
  hand_over(clock);
  join_warp(
      "__syncwarp", [](Warp&, unsigned) {}, mask, nullptr, site);
  take_over(clock);
}

Thread& running_thread(const char* call, Site site) {
  if (running == nullptr)
    fault(clip::concat(call, " of ", describe(site), " is called outside a kernel"));
  return *running->thread;
}

void trap(Site site) { fault("__trap of " + describe(site)); }

void* dynamic_shared_memory() {
  if (running == nullptr) fault("dynamic_shared is called outside a kernel");
  return running->shared->dynamic();
}

bool is_shared(const void* address, int64_t bytes) {
  return running->shared->contains(address, bytes);
}

std::string describe(Site site) { return clip::concat(site.file, ":", site.line); }

std::string running_kernel() {
  if (running == nullptr || running->thread == nullptr) return "";
  const auto text = [](const auto& v) { return clip::concat("(", v.x, ", ", v.y, ", ", v.z, ")"); };
  const Launch& launch = running->launch;
  return clip::concat("kernel ", launch.name, ", launched at ",
                      describe({launch.file, launch.line}), ", block ", text(blockIdx), " of ",
                      text(launch.grid), ", thread ", text(running->thread->position), " of ",
                      text(launch.block));
}

}  // namespace cudasim
