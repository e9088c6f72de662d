// Loops over threads. What a task computes depends on its number alone, so results do not depend on
// the thread count.
#pragma once

#include <cstdint>

namespace clip {

/// Runs body(i) for i in [0, count), split among the OpenMP team in contiguous ranges.
/// serial_below: with fewer tasks than this the caller runs them alone
template <class Body>
void parallel_for(int64_t count, const Body& body, int64_t serial_below = 2) {
#pragma omp parallel for schedule(static) if (count >= serial_below)
  for (int64_t i = 0; i < count; ++i) body(i);
}

/// The same for tasks of uneven length: a free thread takes the next one.
template <class Body>
void parallel_for_dynamic(int64_t count, const Body& body) {
#pragma omp parallel for schedule(dynamic, 1) if (count >= 2)
  for (int64_t i = 0; i < count; ++i) body(i);
}

}  // namespace clip
