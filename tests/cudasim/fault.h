// The end of a program that did what a GPU program must not.
#pragma once

#include <string>

namespace cudasim {

inline constexpr int kFaultExitCode = 86;

/// Prints the message, the kernel with its place, block and thread, and the orders in force as one
/// message on stderr; exits with kFaultExitCode.
[[noreturn]] void fault(const std::string& message);

}  // namespace cudasim
