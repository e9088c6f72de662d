// What the simulator tells AddressSanitizer and ThreadSanitizer where a program is built with one.
// The runtimes are found by weak symbols, so every build uses the same objects; these, unlike the
// kernels, are not instrumented themselves.
#pragma once

#include <cstddef>

namespace cudasim {

bool under_thread_sanitizer();

/// Around every switch of stacks.
void announce_leaving(void** own_fake_stack, const void* next_stack, size_t next_bytes);
void announce_arrival(void* own_fake_stack, const void** last_stack, size_t* last_bytes);

// ThreadSanitizer sees every GPU thread and every stream as a thread of its own. Switching between
// them says nothing about order; only hand_over and take_over with the same clock do.
void* new_identity();
void* current_identity();
void switch_identity(void* identity);
void hand_over(void* clock);
void take_over(void* clock);
/// Accesses by uninstrumented code on behalf of the current identity.
void note_read(const void* address, size_t bytes);
void note_write(void* address, size_t bytes);

/// While one lives, allocating and freeing count as neither reads nor writes: memory given to a block
/// has no past.
class WithoutHistory {
 public:
  WithoutHistory();
  ~WithoutHistory();
  WithoutHistory(const WithoutHistory&) = delete;
  WithoutHistory& operator=(const WithoutHistory&) = delete;
};

}  // namespace cudasim
