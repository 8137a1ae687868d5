// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"

namespace braise::launch {
namespace {
using Clock = std::chrono::steady_clock;

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

struct Pipe {
  io::FileDescriptor read, write;

  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) core::fail_errno("cannot make a pipe");
    read = io::FileDescriptor(ends[0]);
    write = io::FileDescriptor(ends[1]);
  }
};

class SpawnSettings {
 public:
  SpawnSettings() {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    // Signals are as for a program started from a shell, whatever this process blocks or ignores.
    sigset_t none, all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnSettings() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
};

/// Reads both pipes until their ends or until `deadline`; false where that came first.
bool read_all(const Pipe& out, const Pipe& err, CommandResult& result, Clock::time_point deadline) {
  std::array<pollfd, 2> ends = {{{out.read.get(), POLLIN, 0}, {err.read.get(), POLLIN, 0}}};
  std::array<std::string*, 2> texts = {&result.out, &result.err};
  std::array<char, 65536> buffer;
  while (ends[0].fd >= 0 || ends[1].fd >= 0) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    if (::poll(ends.data(), ends.size(), static_cast<int>(std::min<std::int64_t>(left, 60'000))) < 0) {
      if (errno == EINTR) continue;
      core::fail_errno("cannot wait for a command");
    }
    for (std::size_t i = 0; i < ends.size(); ++i) {
      if (ends[i].fd < 0 || ends[i].revents == 0) continue;
      const ssize_t got = ::read(ends[i].fd, buffer.data(), buffer.size());
      if (got > 0) {
        texts[i]->append(buffer.data(), static_cast<std::size_t>(got));
      } else if (got == 0 || errno != EINTR) {
        ends[i].fd = -1;
      }
    }
  }
  return true;
}

}  // namespace

CommandResult run_command(const std::filesystem::path& program, const std::vector<std::string>& arguments,
                          const std::vector<std::string>& environment, const std::filesystem::path& folder,
                          std::chrono::milliseconds patience) {
  Pipe out, err;
  SpawnSettings settings;
  posix_spawn_file_actions_addopen(&settings.actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&settings.actions, out.write.get(), 1);
  posix_spawn_file_actions_adddup2(&settings.actions, err.write.get(), 2);
  if (!folder.empty()) posix_spawn_file_actions_addchdir_np(&settings.actions, folder.c_str());
  std::vector<std::string> words = {program.filename().string()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  pid_t pid = 0;
  const int fault = ::posix_spawn(&pid, program.c_str(), &settings.actions, &settings.attributes,
                                  pointers(words).data(), pointers(environment).data());
  if (fault != 0) {
    errno = fault;
    core::fail_errno("cannot run " + program.string());
  }
  out.write.reset();
  err.write.reset();
  CommandResult result;
  const bool in_time = read_all(out, err, result, Clock::now() + patience);
  if (!in_time) {
    ::kill(pid, SIGKILL);
    result.err += "it was killed, as it took longer than " + std::to_string(patience.count() / 1000) + " s\n";
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace braise::launch
