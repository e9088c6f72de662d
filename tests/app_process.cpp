#include "tests/app_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <sstream>

namespace clip {
namespace {

namespace fs = std::filesystem;

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> all;
  for (std::string& string : strings) all.push_back(string.data());
  all.push_back(nullptr);
  return all;
}

std::vector<std::string> environment() {
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable)
    if (!std::string(*variable).starts_with("OMP_WAIT_POLICY=")) variables.emplace_back(*variable);
  variables.emplace_back("OMP_WAIT_POLICY=passive");
  return variables;
}

}  // namespace

AppProcess::AppProcess(const std::string& name, const std::vector<std::string>& arguments,
                       const ScratchFolder& folder, const std::string& out,
                       const std::vector<std::string>& launcher)
    : out_(out.starts_with('/') ? out : folder.path(out)), err_(folder.path(".stderr")) {
  const fs::path self = fs::read_symlink("/proc/self/exe");
  const std::string program = (self.parent_path().parent_path() / "apps" / name).string();
  std::vector<std::string> words = launcher, variables = environment();
  words.push_back(program);
  words.insert(words.end(), arguments.begin(), arguments.end());
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  const int create = O_WRONLY | O_CREAT | O_TRUNC;
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out_.c_str(), create, 0600);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, err_.c_str(), create, 0600);
  ::posix_spawn_file_actions_addchdir_np(&actions, folder.path().c_str());
  const int failure = ::posix_spawnp(&id_, words[0].c_str(), &actions, nullptr,
                                     pointers(words).data(), pointers(variables).data());
  ::posix_spawn_file_actions_destroy(&actions);
  CLIP_CHECK(failure == 0, "cannot start ", words[0]);
}

AppProcess::~AppProcess() {
  if (has_ended()) return;
  send(SIGKILL);
  wait();
}

void AppProcess::send(int signal) const {
  if (!ended_) ::kill(id_, signal);
}

bool AppProcess::has_ended() {
  if (!ended_) ended_ = ::waitpid(id_, &status_, WNOHANG) == id_;
  return ended_;
}

AppResult AppProcess::wait() {
  if (!ended_) ended_ = ::waitpid(id_, &status_, 0) == id_;
  const int status = WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
  return {status, file_bytes(out_), file_bytes(err_)};
}

AppResult run_app(const std::string& name, const std::vector<std::string>& arguments,
                  const ScratchFolder& folder) {
  return AppProcess(name, arguments, folder).wait();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

bool holds_temporaries(const std::string& folder) {
  if (!fs::exists(folder)) return false;
  return std::any_of(fs::recursive_directory_iterator(folder), fs::recursive_directory_iterator(),
                     [](const fs::directory_entry& entry) {
                       return entry.path().filename().string().find(".tmp") != std::string::npos;
                     });
}

void expect_refused(const AppResult& result, const std::string& name, int status,
                    const std::vector<std::string>& parts) {
  EXPECT_EQ(result.status, status) << result.err;
  EXPECT_TRUE(result.err.starts_with(name + ": ")) << result.err;
  // One line: the only control character is the line's end.
  const auto is_control = [](char c) { return std::iscntrl(static_cast<unsigned char>(c)) != 0; };
  EXPECT_EQ(std::count_if(result.err.begin(), result.err.end(), is_control), 1) << result.err;
  EXPECT_TRUE(result.err.ends_with('\n')) << result.err;
  for (const std::string& part : parts)
    EXPECT_NE(result.err.find(part), std::string::npos)
        << "'" << part << "' is not in: " << result.err;
}

}  // namespace clip
