// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "runner/journal/replay.h"
#include "runner/journal/run_directory.h"
#include "runner/launch/launcher.h"
#include "runner/plan/plan.h"
#include "runner/schedule/capacity.h"
#include "runner/schedule/scheduler.h"

namespace braise::schedule {

using Clock = std::chrono::steady_clock;

/// What a worker wrote about its attempt.
struct Report {
  bool started = false;
  bool stopped = false;
  std::optional<std::map<std::string, stages::Output>> outputs;  ///< where it completed
  std::string failure;                                           ///< where it failed: rank, host, place, what happened
  std::string failed_host;                                       ///< that of it
};

Report read_report(const journal::RunDirectory& run, const journal::AttemptName& name);

/// All there is to judge an attempt by once its processes have ended.
struct Evidence {
  launch::Ending ending;
  Report report;
  std::string bad_output;  ///< what is wrong with the reported outputs; empty where nothing is
  bool asked_to_stop = false;
  std::string condemned;  ///< why the scheduler ended it (hung, over its time); empty where it did not
  std::string suspect;    ///< the host of the rank that failed or hung first; empty where that is not known
};

struct Verdict {
  journal::AttemptState state = journal::AttemptState::failed;
  std::string reason;
};

/// Trusts outputs that are there before all else, and an exit status last: one of 0 without a report is a failure.
Verdict judge(const Evidence& evidence);

/// What is wrong with a finished job's outputs: one that the plan declares is not among them, or a file is not there
/// with its size. Empty where nothing is.
std::string bad_output(const journal::RunDirectory& run, const plan::Job& job, const plan::Completed& completed);

/// An attempt while it runs: passes requests on when they can do no harm, and watches heartbeats, time and metrics.
class Attempt {
 public:
  Attempt(const journal::RunDirectory& run, const stages::JobSpec& spec, journal::AttemptName name, Share share,
          const Options& options);

  /// Launches it. Its workers are told when its time is over: at `ends_us` (microseconds since 1970; nothing: never),
  /// or at the job's own time limit where that is earlier. Errors: core::Error where it cannot be launched.
  void launch(launch::Launcher& launcher, std::optional<std::int64_t> ends_us);

  /// Asks it to checkpoint and stop; one whose worker is not up yet is killed, as it has nothing to lose.
  void ask_stop();
  void kill();

  /// Looks after it; once a tick. Ends it where it hangs or is over its time.
  void look(Observer& observer);

  /// Its end, once no process of it is left.
  std::optional<Evidence> poll(Observer& observer);

  int event_fd() const { return launched_->event_fd(); }
  const journal::AttemptName& name() const { return name_; }
  const Share& share() const { return share_; }

 private:
  void request_stop();
  void condemn(std::string reason, bool at_once);
  void watch_heartbeats(Clock::time_point now);
  void read_metrics(Observer& observer);

  const journal::RunDirectory& run_;
  const stages::JobSpec& spec_;
  const Options& options_;
  journal::AttemptName name_;
  Share share_;
  std::unique_ptr<launch::Launched> launched_;
  Clock::time_point started_, pardoned_until_;
  std::int64_t looked_us_ = 0;
  std::optional<Clock::time_point> kill_at_;  ///< the end of its grace, once it was asked to stop
  bool own_limit_ = false;                    ///< it is the job's time limit that its workers know of
  bool worker_up_ = false;
  bool killed_ = false;
  bool asked_to_stop_ = false;  ///< by the run's own stop, not for a fault of its own
  std::string condemned_, hung_host_;
  std::uintmax_t metrics_read_ = 0;
};

}  // namespace braise::schedule
