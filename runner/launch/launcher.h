// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runner/launch/machine.h"

namespace braise::launch {

/// An attempt to be launched: `ranks` times the same command, as one MPI job.
struct Order {
  std::string name;                   ///< unlike any other attempt's, anywhere: marks its processes
  std::vector<std::string> command;   ///< program (an absolute path) and arguments of each rank
  std::filesystem::path attempt_dir;  ///< exists; what the launch itself prints goes there
  std::filesystem::path scratch_dir;  ///< of the ranks: made by the launcher, and removed by it once no process is left
  int ranks = 1;
  int threads = 1;          ///< of each rank
  std::vector<Core> cores;  ///< ranks x threads of them: the first `threads` for rank 0, and so on; empty: do not bind
};

/// How an attempt's processes came to their end. What they achieved is told by what they wrote, not by this.
struct Ending {
  std::optional<int> exit_code;
  std::optional<int> signal;
  bool killed = false;      ///< kill() was called before
  std::string explanation;  ///< for a person: "mpirun ended with exit status 137"
};

/// A launched attempt.
///
///     Launcher::start ──▶ running ──(the processes end by themselves, or kill)──▶ ended
///
/// `running` begins with start(), even where the ranks come up only later (a queue). In it ask_stop() and kill() may be
/// called, in any order and any number of times; they return at once and promise nothing but to be passed on: an
/// attempt may complete although it was asked to stop. poll() gives the Ending exactly once: from then on the attempt
/// has ended, no process of it is left (as far as this machine can tell), its scratch is gone, and only the destructor
/// may follow. The launcher reports nothing but the end. That ranks are up, move, or hang is told by the worker's
/// events and heartbeats, and it is the scheduler that judges them and calls ask_stop() or kill(). Destroying an
/// attempt that runs kills it and waits for its end. Calls: from the thread that started it only. Errors: core::Error
/// from start() alone.
class Launched {
 public:
  virtual ~Launched() = default;

  /// Readable (POLLIN) whenever poll() may have news; good until the attempt ends.
  virtual int event_fd() const = 0;

  /// Never blocks.
  virtual std::optional<Ending> poll() = 0;

  /// Asks the ranks to checkpoint and stop. Only once the worker has started: before, the signal would end them.
  virtual void ask_stop() = 0;

  /// Ends all processes within a few seconds, whatever state they are in.
  virtual void kill() = 0;
};

/// Starts attempts: on this machine by mpirun (local.h), on a cluster by its batch system.
class Launcher {
 public:
  virtual ~Launcher() = default;

  /// Must be called from a thread that lives as long as the attempt, best the main one: processes die with the thread
  /// that started them. Errors: core::Error where the attempt cannot be launched; nothing is left of it.
  virtual std::unique_ptr<Launched> start(const Order& order) = 0;
};

}  // namespace braise::launch
