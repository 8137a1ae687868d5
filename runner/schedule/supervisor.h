// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "runner/journal/run_directory.h"
#include "runner/launch/launcher.h"
#include "runner/plan/plan.h"
#include "runner/schedule/scheduler.h"
#include "runner/schedule/stop_signal.h"

namespace braise::schedule {

/// How a supervisor's work ended.
enum class SupervisorEnd {
  completed,
  failed,
  stopped,    ///< it was asked to stop, or Slurm takes the nodes away
  requeued,   ///< its Slurm job goes on later
  superseded  ///< its job belongs to another submission now
};

/// What a supervisor was asked.
struct SupervisorSignals {
  StopSignal time_up;    ///< the Slurm job's time is nearly over
  StopSignal terminate;  ///< Slurm takes the nodes away
  StopSignal stop;       ///< a person wants the run to stop
};

/// One job of a run, done by a Slurm job.
struct Supervision {
  int session = 0;  ///< of the submission
  std::string job;
  std::string slurm_job;                ///< Slurm's id: "12", "12_3"
  int restart = 0;                      ///< how often Slurm has started it before
  std::string nodes;                    ///< "n[1-2]"
  std::vector<std::string> node_names;  ///< each of them
  bool preflight = false;               ///< look at the nodes before any attempt
  bool exclude_failed = false;          ///< keep off nodes that are lost
  /// Puts the Slurm job back into the queue, which ends this process soon after. Errors: core::Error.
  std::function<void()> requeue;
  /// Keeps the Slurm job, once it is in the queue again, off these nodes besides those that the site excludes. Errors:
  /// core::Error.
  std::function<void(const std::set<std::string>& nodes)> keep_off;
  /// The nodes of a list as Slurm writes it. Errors: core::Error.
  std::function<std::vector<std::string>(const std::string& nodes)> names_of;
  /// When Slurm will end this Slurm job, as microseconds since 1970; nothing where that is never, or not known.
  std::function<std::optional<std::int64_t>()> ends_us;
  /// Whether Slurm still lets this Slurm job run. Errors: core::Error.
  std::function<bool()> is_running;
};

/// Does a job of the run inside a Slurm job: attempt after attempt, as the scheduler would on this machine, until it is
/// completed, has failed more often than its `retries`, or is stopped. An attempt that stops because its time is up
/// goes on when the Slurm job is queued again, which no `retries` bound, unless several in a row leave nothing behind;
/// or at once, where Slurm has been told meanwhile to give the job more time. A node that does not stand its check is
/// kept off by the job from then on.
///
/// Of supervisors of one job (Slurm may start a job twice, or take a node for dead that is not) only the latest counts:
/// each claims the number of its attempt by a file of that name, and one that finds a higher number ends its ranks and
/// then only waits for what becomes of the job. Errors: core::Error.
SupervisorEnd supervise(const plan::Plan& plan, const journal::RunDirectory& run, const Supervision& what,
                        launch::Launcher& launcher, const Options& options, Observer& observer,
                        SupervisorSignals& signals);

}  // namespace braise::schedule
