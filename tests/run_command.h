// Runs programs and scripts as a user would, and keeps what they say.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace clip {

struct CommandResult {
  int status = 0;      ///< exit status; 128 + the signal's number if a signal ended it
  std::string output;  ///< standard output and standard error together
};

/// Runs a line of the shell; throws clip::Error if the shell cannot be started.
CommandResult run_command(const std::string& line);

/// The program apps/<name> of the build this test belongs to, quoted for the shell.
std::string app_path(const std::string& name);

/// A file of tests/ (a script), quoted for the shell.
std::string script_path(const std::string& name);

/// The words that start `ranks` processes of the program named after them: mpirun, as root too,
/// with more ranks than cores, and waiting without work. Empty if there is no mpirun.
std::vector<std::string> mpirun(int64_t ranks);

/// The same for the shell.
std::string mpirun_line(int64_t ranks);

/// Runs tests of the calling program, disabled ones too, on ranks that mpirun starts.
/// environment    NAME=value, for the shell
CommandResult run_tests_on_ranks(int64_t ranks, const std::string& filter,
                                 const std::string& environment = "");

}  // namespace clip
