// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "runner/launch/launcher.h"

namespace braise::launch {

/// A program that starts an attempt's ranks and lasts as long as they do: mpirun, srun.
struct Program {
  std::string name;                            ///< for messages
  std::filesystem::path file;                  ///< absolute
  std::vector<std::string> arguments;          ///< the first is its name
  std::vector<std::string> environment;        ///< "NAME=value"; all there is of it
  std::filesystem::path output;                ///< what it and the ranks print is appended there
  std::string mark;                            ///< value of kMarkVariable in the environment of all its processes
  std::vector<std::filesystem::path> folders;  ///< made before, removed once no process is left
  /// What kill() sends first: SIGKILL, or what makes it end ranks on other machines too. Five seconds later it is
  /// SIGKILL in any case.
  int kill_signal = SIGKILL;
};

/// Starts it in a session of its own (a terminal's Ctrl-C does not reach it), bound to die with the calling thread.
/// ask_stop sends SIGUSR2, which it passes on to the ranks. After a bad end, every process of this machine that bears
/// the mark is ended too. Errors: core::Error; nothing is left.
std::unique_ptr<Launched> launch_program(Program program);

}  // namespace braise::launch
