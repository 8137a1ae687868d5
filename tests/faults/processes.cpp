// SPDX-License-Identifier: Apache-2.0
#include "tests/faults/processes.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "stages/shared/io/file.h"

namespace braise::test {
namespace fs = std::filesystem;

int from_environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

std::vector<Process> processes_with(const std::string& text) {
  std::vector<Process> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid <= 0 || pid == ::getpid()) continue;
    std::string command;
    try {
      command = io::read_file(entry.path() / "cmdline");
    } catch (const std::exception&) {
      continue;  // It has ended.
    }
    for (char& c : command) c = c == '\0' ? ' ' : c;
    if (command.find(text) != std::string::npos) found.push_back({pid, command});
  }
  return found;
}

pid_t start(const std::vector<std::string>& arguments, const fs::path& output) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    const int out = ::open(output.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
    ::dup2(out, 1);
    ::dup2(out, 2);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  return pid;
}

bool has_ended(pid_t child) {
  siginfo_t info{};
  return ::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == child;
}

int end_of(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::vector<pid_t> processes_of(const std::string& program, const std::string& text) {
  std::vector<pid_t> found;
  for (const Process& process : processes_with(text)) {
    const std::string path = process.command.substr(0, process.command.find(' '));
    if (fs::path(path).filename() == program) found.push_back(process.pid);
  }
  return found;
}

bool all_gone(const std::string& text) {
  for (int i = 0; i < 50; ++i) {
    if (processes_with(text).empty()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return false;
}

bool kill_one(const std::string& program, const std::string& text, pid_t runner, unsigned choice) {
  while (!has_ended(runner)) {
    const std::vector<pid_t> victims = processes_of(program, text);
    if (!victims.empty() && ::kill(victims[choice % victims.size()], SIGKILL) == 0) return true;
  }
  return false;
}

}  // namespace braise::test
