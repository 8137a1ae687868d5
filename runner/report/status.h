// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "runner/journal/replay.h"
#include "runner/journal/run_directory.h"
#include "runner/launch/slurm/client.h"
#include "runner/plan/plan.h"

namespace braise::report {

/// How a run stands, from its plan and its journal.
struct RunStatus {
  std::string id;
  std::string recipe;
  /// "running" (also while its jobs wait in Slurm's queue); "completed" (every job finished), "failed", "stopped";
  /// "interrupted": its runner was killed, or Slurm ended its jobs; "unknown": Slurm does not answer.
  std::string state;
  std::int64_t started_us = 0;
  std::int64_t ended_us = 0;          ///< 0: running or not known
  std::map<std::string, int> counts;  ///< jobs by state
  plan::Plan plan;
  journal::RunState journal;
  std::map<std::string, std::string> states;  ///< of each job: as in the journal, or "queued", "interrupted", "unknown"
  /// What Slurm says of the jobs of the latest submission, by job.
  std::map<std::string, launch::slurm::QueueEntry> queue;
};

/// What Slurm says of runs' jobs now.
struct Queue {
  std::vector<launch::slurm::QueueEntry> entries;
  std::string problem;  ///< why it is not known; empty where it is
};

/// Asks Slurm about runs, all at once; nothing where no job of them was ever submitted. Waits up to `patience` for an
/// answer.
Queue ask_queue(const std::vector<journal::RunDirectory>& runs,
                std::chrono::milliseconds patience = std::chrono::seconds(20));

/// Asks Slurm's accounting about jobs of the run that have not ended by its journal and that squeue has forgotten, and
/// puts the answer into `status.queue`; without accounting nothing. Call once where one run is looked at.
void add_accounting(RunStatus& status);

/// `queue` may have other runs' jobs too. Errors: core::Error where the plan cannot be read.
RunStatus read_status(const journal::RunDirectory& run, const Queue& queue);

/// What an attempt last told in its metrics.jsonl (telemetry::take_in); null where it told nothing.
nlohmann::json latest_metrics(const std::filesystem::path& attempt_dir);

std::string status_text(const RunStatus& status, const journal::RunDirectory& run);
nlohmann::json status_json(const RunStatus& status, const journal::RunDirectory& run);

}  // namespace braise::report
