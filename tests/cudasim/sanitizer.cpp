#include "tests/cudasim/sanitizer.h"

extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom,
                                                  size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom,
                                                   size_t* size);
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* clock);
[[gnu::weak]] void __tsan_release(void* clock);
[[gnu::weak]] void __tsan_read_range(void* address, unsigned long bytes);
[[gnu::weak]] void __tsan_write_range(void* address, unsigned long bytes);
[[gnu::weak]] void __tsan_ignore_thread_begin();
[[gnu::weak]] void __tsan_ignore_thread_end();
}

namespace cudasim {

bool under_thread_sanitizer() { return __tsan_create_fiber != nullptr; }

void announce_leaving(void** own_fake_stack, const void* next_stack, size_t next_bytes) {
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(own_fake_stack, next_stack, next_bytes);
}

void announce_arrival(void* own_fake_stack, const void** last_stack, size_t* last_bytes) {
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(own_fake_stack, last_stack, last_bytes);
}

void* new_identity() { return __tsan_create_fiber ? __tsan_create_fiber(0) : nullptr; }

void* current_identity() { return __tsan_get_current_fiber ? __tsan_get_current_fiber() : nullptr; }

void switch_identity(void* identity) {
  constexpr unsigned kNoOrder = 1;
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(identity, kNoOrder);
}

void hand_over(void* clock) {
  if (__tsan_release) __tsan_release(clock);
}

void take_over(void* clock) {
  if (__tsan_acquire) __tsan_acquire(clock);
}

void note_read(const void* address, size_t bytes) {
  if (__tsan_read_range) __tsan_read_range(const_cast<void*>(address), bytes);
}

void note_write(void* address, size_t bytes) {
  if (__tsan_write_range) __tsan_write_range(address, bytes);
}

WithoutHistory::WithoutHistory() {
  if (__tsan_ignore_thread_begin) __tsan_ignore_thread_begin();
}

WithoutHistory::~WithoutHistory() {
  if (__tsan_ignore_thread_end) __tsan_ignore_thread_end();
}

}  // namespace cudasim
