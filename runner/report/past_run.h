// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "runner/journal/job_attempts.h"
#include "runner/journal/replay.h"
#include "stages/shared/telemetry/metrics_lines.h"

namespace braise::report {

/// What a run has left of its jobs, wherever they were done: what a later run is held against.
class PastRun {
 public:
  explicit PastRun(journal::RunDirectory run)
      : run_(std::move(run)), state_(journal::replay(run_)), attempts_(run_, state_) {}
  PastRun(const PastRun&) = delete;
  PastRun& operator=(const PastRun&) = delete;

  const journal::RunDirectory& run() const { return run_; }
  /// Null where no event names the job.
  const journal::JobRecord* record(const std::string& job) const { return state_.find(job); }
  /// Oldest first.
  std::vector<std::filesystem::path> attempts(const std::string& job) { return attempts_.of(job); }
  std::vector<telemetry::StepLoss> losses(const std::string& job) { return telemetry::read_losses(attempts(job)); }

 private:
  const journal::RunDirectory run_;
  const journal::RunState state_;
  journal::JobAttempts attempts_;
};

}  // namespace braise::report
