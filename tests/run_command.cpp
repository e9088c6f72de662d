#include "tests/run_command.h"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>

#include "engine/check.h"
#include "tests/reference_path.h"

namespace clip {
namespace {

std::string quoted(const std::filesystem::path& path) { return "'" + path.string() + "'"; }

}  // namespace

CommandResult run_command(const std::string& line) {
  std::FILE* pipe = popen(("{ " + line + "\n} 2>&1 </dev/null").c_str(), "r");
  CLIP_CHECK(pipe != nullptr, "cannot start a shell for: ", line);
  CommandResult result;
  std::array<char, 4096> part;
  for (size_t count; (count = std::fread(part.data(), 1, part.size(), pipe)) > 0;) {
    result.output.append(part.data(), count);
  }
  const int status = pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

std::string app_path(const std::string& name) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe");
  return quoted(self.parent_path().parent_path() / "apps" / name);
}

std::string script_path(const std::string& name) {
  return quoted(std::filesystem::path(reference_path("")).parent_path().parent_path() / name);
}

std::vector<std::string> mpirun(int64_t ranks) {
  if (run_command("command -v mpirun").status != 0) return {};
  return {"env",
          "OMPI_ALLOW_RUN_AS_ROOT=1",
          "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
          "OMPI_MCA_rmaps_base_oversubscribe=1",
          "OMPI_MCA_hwloc_base_binding_policy=none",
          "OMPI_MCA_mpi_yield_when_idle=1",
          "OMPI_MCA_pml=ob1",
          "OMPI_MCA_btl=self,vader",
          "OMPI_MCA_plm=isolated",
          "OMPI_MCA_odls_base_sigkill_timeout=0",
          "ASAN_OPTIONS=detect_leaks=0",  // Open MPI keeps memory to its end
          "mpirun",
          "-np",
          std::to_string(ranks)};
}

std::string mpirun_line(int64_t ranks) {
  std::string line;
  for (const std::string& word : mpirun(ranks)) line += word + ' ';
  return line;
}

CommandResult run_tests_on_ranks(int64_t ranks, const std::string& filter,
                                 const std::string& environment) {
  // Every rank would take all cores, and they would wait for each other's threads.
  return run_command(concat(environment, " OMP_NUM_THREADS=1 ", mpirun_line(ranks), "/proc/",
                            ::getpid(), "/exe --gtest_also_run_disabled_tests --gtest_filter='",
                            filter, "'"));
}

}  // namespace clip
