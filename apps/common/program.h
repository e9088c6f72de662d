// What every program does: one sentence for an error, an exit code, the device, asking it to stop.
#pragma once

#include <boost/program_options.hpp>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>

#include "engine/backend.h"

namespace clip {

/// Runs a program's body. clip::UsageError and unknown or malformed options: one sentence on stderr
/// and exit code 2; any other failure: one sentence and exit code 1. The sentence begins with
/// `speaker`, or the name.
int run_program(const std::string& name, const std::function<void()>& body,
                const std::string& speaker = "");

/// Thrown by parse_options when it has printed what --help asks for; the exit code is 0.
class HelpShown {};

/// printf into a string; what is beyond 255 characters is cut off.
template <class... Values>
std::string formatted(const char* format, Values... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

/// Control characters become spaces: names of files and labels may hold anything.
std::string one_line(std::string text);

/// Parses argv into `options`, refusing what is not known; "--help" prints `usage`, the options and
/// their defaults. `positional` names the option that a word without one is the value of, if any.
/// throws UsageError that names the option; HelpShown
boost::program_options::variables_map parse_options(
    int argc, const char* const* argv, const boost::program_options::options_description& options,
    const std::string& usage, const char* positional = nullptr);

/// A device by name. "auto" is the first GPU that works, else the CPU.
struct ChosenDevice {
  Backend* backend = nullptr;
  std::unique_ptr<Backend> owned;  ///< a GPU's
  /// One line that says why "auto" is the CPU; empty otherwise.
  std::string note;

  void print_note() const;  ///< on standard error, where standard output is for other programs
};
/// local_rank    which GPU "auto" and "cuda" mean
/// throws UsageError if the name is none of auto, cpu, cuda, cuda:i; Error if there is no such GPU
ChosenDevice choose_device(const std::string& name, int64_t local_rank = 0);

/// What the towers compute in: fp32, bf16, or auto, which is bf16 where the device is fast in it.
/// throws UsageError if the name is none of these
DType choose_precision(const std::string& name, const Backend& backend);
/// "fp32" or "bf16", as the option has it.
const char* precision_name(DType precision);

/// To be called first of all in main(): a thread of its own receives Ctrl-C, SIGTERM and SIGUSR1,
/// and all that start later are spared them, for no handler may run in a thread that computes
/// (engine/README.md, "Signals"). The signals still end the program.
void receive_stop_signals();
/// From now on they only set stop_requested(); a second one of its kind ends the program at once.
void catch_stop_signals();
bool stop_requested();

}  // namespace clip
