// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runner/journal/replay.h"

namespace braise::journal {

/// Finds the attempts that did a run's jobs, wherever that was: a job may be reused from another run beside it.
class JobAttempts {
 public:
  JobAttempts(const RunDirectory& run, RunState state) : run_(run) { runs_[run.id()] = std::move(state); }

  /// Folders, oldest first; none where the job has not begun, or the run that did it is gone.
  std::vector<std::filesystem::path> of(const std::string& job);

 private:
  const RunState& journal_of(const std::string& run);

  const RunDirectory& run_;
  std::map<std::string, RunState> runs_;
};

/// What an attempt's workers told of themselves when they were up.
struct StartedWorkers {
  nlohmann::json event;               ///< worker_started; null: they did not come so far, or it cannot be read
  std::vector<std::string> warnings;  ///< what cannot be read of the attempt's journal: "file:line: ..."
};

/// From the journal of the run that the attempt's folder lies in.
StartedWorkers started_workers(const std::filesystem::path& attempt);

}  // namespace braise::journal
