// What lanes of a warp do together. The last lane that arrives does it for all; arguments and results
// lie on the lanes' own stacks.
#include <bit>

#include "engine/check.h"
#include "tests/cudasim/block.h"
#include "tests/cudasim/cuda/ptx.cuh"
#include "tests/cudasim/device.h"
#include "tests/cudasim/fault.h"
#include "tests/cudasim/sanitizer.h"

namespace cudasim {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

template <class F>
void for_each_lane(unsigned lanes, const F& f) {
  for (; lanes != 0; lanes &= lanes - 1) f(std::countr_zero(lanes));
}

template <class T>
T& argument_of(const Warp& warp, int lane) {
  return *static_cast<T*>(warp.threads[lane].argument);
}

// ---- Shuffles
struct ShuffleArgument {
  Shuffle kind;
  int operand;
  int width;
  uint64_t value;
  uint64_t result;
};

int source_lane(const ShuffleArgument& argument, int lane) {
  const int first = lane & ~(argument.width - 1);
  const int end = first + argument.width;
  int source = lane;
  switch (argument.kind) {
    case Shuffle::kIndex:
      return first + (argument.operand & (argument.width - 1));
    case Shuffle::kUp:
      source = lane - argument.operand;
      break;
    case Shuffle::kDown:
      source = lane + argument.operand;
      break;
    case Shuffle::kXor:
      source = lane ^ argument.operand;
      break;
  }
  // A lane without a partner in its part of the warp keeps its own value; xor may reach down.
  const bool below = source < first && argument.kind == Shuffle::kUp;
  return below || source >= end || source < 0 ? lane : source;
}

void do_shuffle(Warp& warp, unsigned lanes) {
  for_each_lane(lanes, [&](int lane) {
    auto& argument = argument_of<ShuffleArgument>(warp, lane);
    const int source = source_lane(argument, lane);
    if ((lanes >> source & 1) == 0) {
      const Thread& thread = warp.threads[lane];
      fault(clip::concat("lane ", lane, " reads lane ", source, " in ", thread.call, " of ",
                         describe(thread.site),
                         ": that lane is not in the mask or has left the kernel"));
    }
    argument.result = argument_of<ShuffleArgument>(warp, source).value;
  });
}

// ---- Votes
struct VoteArgument {
  Vote vote;
  bool predicate;
  unsigned result;
};

void do_vote(Warp& warp, unsigned lanes) {
  unsigned ballot = 0;
  for_each_lane(lanes, [&](int lane) {
    if (argument_of<VoteArgument>(warp, lane).predicate) ballot |= 1u << lane;
  });
  for_each_lane(lanes, [&](int lane) {
    auto& argument = argument_of<VoteArgument>(warp, lane);
    switch (argument.vote) {
      case Vote::kBallot:
        argument.result = ballot;
        break;
      case Vote::kAny:
        argument.result = ballot != 0;
        break;
      case Vote::kAll:
        argument.result = ballot == lanes;
        break;
    }
  });
}

// ---- Tiles for tensor cores
void require_whole_warp(const Warp& warp, unsigned lanes, const char* call) {
  if (lanes != kAllLanes) {
    const Thread& thread = warp.threads[std::countr_zero(lanes)];
    fault(clip::concat(call, " of ", describe(thread.site), " needs all 32 lanes, got 0x", std::hex,
                       lanes));
  }
}

struct LdmatrixArgument {
  uint32_t* tiles;
  const uint16_t* row;
  bool transposed;
};

void do_ldmatrix(Warp& warp, unsigned lanes) {
  require_whole_warp(warp, lanes, "ldmatrix");
  const bool transposed = argument_of<LdmatrixArgument>(warp, 0).transposed;
  for (int tile = 0; tile < 4; ++tile) {
    const uint16_t* rows[8];
    for (int row = 0; row < 8; ++row)
      rows[row] = argument_of<LdmatrixArgument>(warp, tile * 8 + row).row;
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const int major = lane / 4, minor = lane % 4 * 2;
      const uint32_t low = transposed ? rows[minor][major] : rows[major][minor];
      const uint32_t high = transposed ? rows[minor + 1][major] : rows[major][minor + 1];
      argument_of<LdmatrixArgument>(warp, lane).tiles[tile] = low | high << 16;
    }
  }
}

struct MmaArgument {
  float* d;
  const uint32_t* a;
  uint32_t b[2];
};

float low_bf16(uint32_t pair) { return std::bit_cast<float>(pair << 16); }
float high_bf16(uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }

// Who holds which element is said in cuda/ptx.cuh.
void do_mma(Warp& warp, unsigned lanes) {
  require_whole_warp(warp, lanes, "mma");
  constexpr int kM = 16, kN = 8, kK = 16;
  float a[kM][kK], b[kK][kN], d[kM][kN];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto& argument = argument_of<MmaArgument>(warp, lane);
    const int g = lane / 4, t = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      const int row = g + i % 2 * 8, k = t + i / 2 * 8;
      a[row][k] = low_bf16(argument.a[i]);
      a[row][k + 1] = high_bf16(argument.a[i]);
      d[g + i / 2 * 8][t + i % 2] = argument.d[i];
    }
    for (int i = 0; i < 2; ++i) {
      b[t + i * 8][g] = low_bf16(argument.b[i]);
      b[t + i * 8 + 1][g] = high_bf16(argument.b[i]);
    }
  }
  for (int m = 0; m < kM; ++m)
    for (int k = 0; k < kK; ++k)
      for (int n = 0; n < kN; ++n) d[m][n] += a[m][k] * b[k][n];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto& argument = argument_of<MmaArgument>(warp, lane);
    const int g = lane / 4, t = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) argument.d[i] = d[g + i / 2 * 8][t + i % 2];
  }
}

}  // namespace

uint64_t warp_shuffle(Shuffle shuffle, unsigned mask, uint64_t value, int operand, int width,
                      Site site) {
  static constexpr const char* kNames[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync",
                                           "__shfl_xor_sync"};
  const char* name = kNames[static_cast<int>(shuffle)];
  if (width < 1 || width > kWarpSize || !std::has_single_bit(static_cast<unsigned>(width)))
    fault(clip::concat(name, " of ", describe(site), ": width must be 1, 2, 4, 8, 16 or 32, got ",
                       width));
  ShuffleArgument argument{shuffle, operand, width, value, 0};
  join_warp(name, do_shuffle, mask, &argument, site);
  return argument.result;
}

unsigned warp_vote(Vote vote, unsigned mask, bool predicate, Site site) {
  static constexpr const char* kNames[] = {"__ballot_sync", "__any_sync", "__all_sync"};
  VoteArgument argument{vote, predicate, 0};
  join_warp(kNames[static_cast<int>(vote)], do_vote, mask, &argument, site);
  return argument.result;
}

void ldmatrix_x4(uint32_t (&tiles)[4], const void* row, bool transposed, Site site) {
  constexpr int kRowBytes = 16;
  const char* call = transposed ? "ldmatrix.trans" : "ldmatrix";
  running_thread(call, site);
  if (reinterpret_cast<uintptr_t>(row) % kRowBytes != 0)
    fault(clip::concat(call, " of ", describe(site), ": row ", row, " is not 16-byte aligned"));
  if (!is_shared(row, kRowBytes))
    fault(clip::concat(call, " of ", describe(site), ": row ", row,
                       " is not inside the block's shared memory"));
  note_read(row, kRowBytes);
  LdmatrixArgument argument{tiles, static_cast<const uint16_t*>(row), transposed};
  join_warp(call, do_ldmatrix, kAllLanes, &argument, site);
}

void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site) {
  MmaArgument argument{d, a, {b0, b1}};
  join_warp("mma", do_mma, kAllLanes, &argument, site);
}

}  // namespace cudasim
