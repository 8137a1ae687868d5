// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/processes.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"

namespace braise::launch {
namespace fs = std::filesystem;
namespace {

bool bears(pid_t pid, const std::string& mark) {
  try {
    const std::string environment = '\0' + io::read_file("/proc/" + std::to_string(pid) + "/environ");
    return environment.find('\0' + std::string(kMarkVariable) + "=" + mark + '\0') != std::string::npos;
  } catch (const core::Error&) {
    return false;  // gone meanwhile, or another user's
  }
}

}  // namespace

std::vector<pid_t> marked_processes(const std::string& mark) {
  std::vector<pid_t> found;
  std::error_code error;
  for (fs::directory_iterator entry("/proc", error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    pid_t pid = 0;
    const auto [rest, fault] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (fault == std::errc() && *rest == '\0' && bears(pid, mark)) found.push_back(pid);
  }
  return found;
}

std::size_t kill_marked(const std::string& mark) {
  std::size_t killed = 0;
  for (const pid_t pid : marked_processes(mark)) {
    // The handle fixes the process; that it still bears the mark shows that it is the one that was found.
    const io::FileDescriptor process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!process || !bears(pid, mark)) continue;
    if (::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0) == 0) ++killed;
  }
  return killed;
}

}  // namespace braise::launch
