// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runner/launch/launcher.h"

namespace braise::launch {

/// Launches on this machine: an mpirun for each attempt, in a session of its own (a terminal's Ctrl-C does not reach
/// it) and bound to die with the thread that started it. Open MPI's session folder and shared-memory files lie in the
/// attempt's scratch. What mpirun and the ranks print goes to mpirun.txt in the attempt's folder. The environment is a
/// short list of this process's variables (kept_environment) and what is set here.
///
/// ask_stop sends SIGUSR2, which mpirun passes on to the ranks. kill sends SIGKILL to mpirun and to every process that
/// bears the attempt's mark in its environment.
class LocalLauncher : public Launcher {
 public:
  /// Finds mpirun on PATH. Errors: core::Error where there is none.
  LocalLauncher();

  std::unique_ptr<Launched> start(const Order& order) override;

 private:
  std::filesystem::path mpirun_;
};

}  // namespace braise::launch
