// Switching stacks on x86-64 with the System V calling convention: the six registers that a function
// must preserve are pushed, the stack pointers are exchanged, the other side's six are popped.
#include <cstdint>

#include "tests/cudasim/fiber.h"

extern "C" void cudasim_switch_stacks(void** from, void* to);

asm(R"(
.text
.type cudasim_switch_stacks, @function
cudasim_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cudasim_switch_stacks, .-cudasim_switch_stacks
)");

namespace cudasim {

void prepare_context(Fiber& fiber, void (*entry)()) {
  constexpr int kRegisters = 6;
  auto** top = reinterpret_cast<void**>(fiber.stack + fiber.stack_bytes);
  *--top = nullptr;  // a return address, so that `entry` finds the alignment of a function called
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kRegisters; ++i) *--top = nullptr;
  fiber.context = top;
}

void switch_context(Fiber& from, Fiber& to) { cudasim_switch_stacks(&from.context, to.context); }

}  // namespace cudasim
