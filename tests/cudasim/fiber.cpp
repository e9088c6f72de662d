#include "tests/cudasim/fiber.h"

#include <sys/mman.h>

#include "tests/cudasim/fault.h"
#include "tests/cudasim/sanitizer.h"

namespace cudasim {
namespace {

// Touched page by page; AddressSanitizer's frames are several times larger.
constexpr size_t kStackBytes = size_t{256} << 10;
constexpr size_t kGuardBytes = size_t{4} << 10;  // a stack that overflows hits it and stops
// Stacks that all start at a page's edge would share few cache sets; each starts a bit lower.
constexpr size_t kColorStep = 576;
constexpr size_t kColors = 29;

Fiber* arriving_from = nullptr;
void (*fiber_entry)() = nullptr;

void arrive(Fiber& self) {
  const void* stack = nullptr;
  size_t bytes = 0;
  announce_arrival(self.fake_stack, &stack, &bytes);
  // The host's stack was not made here: AddressSanitizer knows its bounds.
  if (arriving_from->stack == nullptr && stack != nullptr) {
    arriving_from->stack = static_cast<unsigned char*>(const_cast<void*>(stack));
    arriving_from->stack_bytes = bytes;
  }
}

void first_arrival() {
  Fiber fresh;
  arrive(fresh);
  fiber_entry();
}

}  // namespace

Fiber* make_fiber(void (*entry)()) {
  static size_t made = 0;
  fiber_entry = entry;
  void* memory = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) fault("no memory for the stack of another GPU thread");
  mprotect(memory, kGuardBytes, PROT_NONE);
  Fiber* fiber = new Fiber;
  fiber->stack = static_cast<unsigned char*>(memory) + kGuardBytes;
  fiber->stack_bytes = kStackBytes - made++ % kColors * kColorStep;
  fiber->identity = new_identity();
  prepare_context(*fiber, first_arrival);
  return fiber;
}

void switch_fiber(Fiber& from, Fiber& to) {
  arriving_from = &from;
  announce_leaving(&from.fake_stack, to.stack, to.stack_bytes);
  switch_identity(to.identity);
  switch_context(from, to);
  arrive(from);
}

}  // namespace cudasim
