// How the simulated GPU takes its liberties. A right program gives the same bits whatever is set here.
#pragma once

#include <cstdint>

namespace cudasim {

enum class LaneOrder { kAscending, kDescending, kRandom };

/// kLazy: an operation runs when the host waits for it and not before. kOthers: when the host waits
/// for a stream, everything that may run in every other stream runs first. kEager: at the call, as a
/// debugger likes it. A missing wait between streams shows under kLazy or under kOthers.
enum class StreamOrder { kLazy, kOthers, kEager };

struct Options {
  LaneOrder lanes = LaneOrder::kAscending;
  uint64_t seed = 1;  ///< of LaneOrder::kRandom
  StreamOrder streams = StreamOrder::kLazy;
  int64_t memory_bytes = int64_t{4} << 30;  ///< cudaMalloc fails beyond
  double nccl_seconds = 60;                 ///< after which a rank no longer waits for the others
};

/// May be changed between operations. It starts from CUDASIM_LANES (ascending, descending, or
/// random:SEED), CUDASIM_STREAMS (lazy, others or eager), CUDASIM_MEMORY_MIB
/// and CUDASIM_NCCL_SECONDS.
Options& options();

}  // namespace cudasim
