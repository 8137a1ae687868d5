// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "runner/journal/replay.h"
#include "runner/journal/run_directory.h"
#include "runner/launch/launcher.h"
#include "runner/plan/plan.h"
#include "runner/schedule/stop_signal.h"

namespace braise::schedule {

struct Options {
  std::filesystem::path worker;             ///< the program of every rank: an absolute path to braise-worker
  std::vector<std::string> worker_options;  ///< added to every rank's command line
  std::vector<std::string> command;         ///< this process's command line, for the journal
  bool fresh = false;      ///< run every job that is left, even where an equal one was finished by some run
  bool fail_fast = false;  ///< after the first failed job, stop all others
  /// How long a job that was asked to stop may take before it is killed. Long enough to write a large checkpoint: a
  /// hung job is found by its heartbeats, and a person in a hurry asks twice.
  std::chrono::milliseconds stop_grace{120'000};
  std::chrono::milliseconds tick{500};  ///< how often heartbeats, metrics and requests are looked at
};

/// What a display is told while a plan runs; called by the thread that runs it. Does nothing by itself.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void attempt_started(const journal::AttemptName& attempt, const stages::JobSpec& job);
  virtual void metrics(const journal::AttemptName& attempt, const nlohmann::json& line);  ///< a line of metrics.jsonl
  /// `again`: another attempt will be made.
  virtual void attempt_ended(const journal::AttemptName& attempt, journal::AttemptState state,
                             const std::string& reason, bool again);
  /// The job is completed, reused, stopped, failed or blocked (then `reason` is the job that failed).
  virtual void job_ended(const std::string& job, journal::JobState state, const std::string& reason);
  virtual void stopping(journal::StopMode mode);
  virtual void warning(const std::string& text);
  virtual void tick();
};

enum class Outcome {
  completed,  ///< every job is
  failed,     ///< some job failed
  stopped     ///< some job is not completed because it was asked to stop
};

const char* to_string(Outcome outcome);

/// Why the plan can never run on this machine, one entry a job that needs more memory than there is; empty where it
/// can. Ask before making a run directory.
std::vector<std::string> refusals(const plan::Plan& plan, const launch::Machine& machine);

/// Runs what is left of a plan: every job that the run's journal does not show finished, each once those it needs are
/// completed, side by side within the machine's cores and memory. Ready jobs start in the order of the plan; one that
/// does not fit yet may be overtaken by smaller ones, but only a few times. A failed job stops those that need it and
/// no others. Call on the main thread: launched processes die with the thread that launched them. Errors: core::Error
/// where the run directory cannot be written (running jobs are killed) or a refusal stands.
Outcome run_plan(const plan::Plan& plan, const journal::RunDirectory& run, const journal::RunLock& lock,
                 launch::Launcher& launcher, const launch::Machine& machine, const Options& options, Observer& observer,
                 StopSignal& stop);

}  // namespace braise::schedule
