// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "runner/launch/launcher.h"

namespace braise::schedule {

/// What becomes of an attempt that the test launcher "runs".
struct Part {
  enum class End {
    completes,
    fails,            ///< stage_failed, exit status 1
    dies,             ///< ended by a signal, without a word
    lies_silently,    ///< exit status 0, without a word
    lies_about_file,  ///< announces an output that is not there
    lies_about_size,  ///< announces an output that is shorter than it says
    forgets_output,   ///< completes without a declared output
    crashes_late,     ///< completes, then ends with exit status 1
    hangs,            ///< beats, but does nothing
    goes_silent,      ///< its heartbeat stops
    never_starts,     ///< no sign of life at all
    cannot_launch     ///< start() throws
  };
  End end = End::completes;
  std::chrono::milliseconds after{0};        ///< how long it runs
  std::chrono::milliseconds stops_after{0};  ///< how long it takes to stop as asked
  bool heeds_stop = true;
  std::string host = "here";     ///< of the rank that fails
  std::string printed = {};      ///< what the launch itself prints
  bool stops_by_itself = false;  ///< as if someone else had sent it the signal
};

/// A launcher without processes, which plays what it is told and notes what was asked of it. One thread, as the
/// scheduler.
class TestLauncher : public launch::Launcher {
 public:
  /// What the nth attempt (from 1) at a job does.
  std::function<Part(const std::string& job, int attempt)> script = [](const std::string&, int) { return Part(); };

  std::unique_ptr<launch::Launched> start(const launch::Order& order) override;

  std::vector<std::string> started;       ///< jobs, in order, once for each attempt
  std::vector<std::string> last_command;  ///< of each rank, as last launched
  std::set<std::string> running;
  std::set<std::string> asked_to_stop, killed;
  std::set<int> busy_cores;
  std::size_t most_at_once = 0;
  std::vector<std::string> faults;  ///< rules of the launcher interface that the scheduler broke
  std::function<void()> on_change;  ///< called after every start and end

  int attempts(const std::string& job) const;
};

}  // namespace braise::schedule
