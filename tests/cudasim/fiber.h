// Stacks that take turns on one processor thread: a GPU thread that waits leaves its stack as it is.
#pragma once

#include <cstddef>

namespace cudasim {

struct Fiber {
  void* context = nullptr;  ///< where it goes on; belongs to switch_context
  unsigned char* stack = nullptr;
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  ///< AddressSanitizer's
  void* identity = nullptr;    ///< ThreadSanitizer's
};

/// A fiber that calls `entry`, which never returns, when first switched to. It lives as long as the
/// program.
Fiber* make_fiber(void (*entry)());
/// Goes on in `to`, and comes back when somebody switches to `from`.
void switch_fiber(Fiber& from, Fiber& to);

// Of the file chosen at link time: fiber_x86_64.cpp, or fiber_ucontext.cpp for other processors.
void prepare_context(Fiber& fiber, void (*entry)());
void switch_context(Fiber& from, Fiber& to);

}  // namespace cudasim
