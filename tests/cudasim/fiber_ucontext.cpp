// Switching stacks where fiber_x86_64.cpp does not apply, some twenty times slower (a system call
// for the signal mask).
#include <ucontext.h>

#include "tests/cudasim/fiber.h"

namespace cudasim {
namespace {

ucontext_t& context_of(Fiber& fiber) {
  if (fiber.context == nullptr) fiber.context = new ucontext_t;  // lives as long as the fiber
  return *static_cast<ucontext_t*>(fiber.context);
}

}  // namespace

void prepare_context(Fiber& fiber, void (*entry)()) {
  ucontext_t& context = context_of(fiber);
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack;
  context.uc_stack.ss_size = fiber.stack_bytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}

void switch_context(Fiber& from, Fiber& to) { swapcontext(&context_of(from), &context_of(to)); }

}  // namespace cudasim
