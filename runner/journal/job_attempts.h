// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runner/journal/replay.h"

namespace braise::journal {

/// A job in a run: its own, or that of another run which it is reused from.
struct JobPlace {
  std::filesystem::path run;  ///< the folder; it may be gone
  std::string job;
};

/// Finds the attempts that did a run's jobs, wherever that was: a job may be reused from another run, which an archived
/// run has in its folder `reused`, and any other beside it.
class JobAttempts {
 public:
  JobAttempts(const RunDirectory& run, RunState state) : run_(run) { runs_[run.id()] = std::move(state); }

  /// Folders, oldest first; none where the job has not begun, or the run that did it is gone.
  std::vector<std::filesystem::path> of(const std::string& job);

  /// The way from the run's job to the one that did the work: itself first. At its end may be a run that is gone.
  std::vector<JobPlace> trail(const std::string& job);

 private:
  std::filesystem::path folder_of(const std::string& run) const;
  const RunState& journal_of(const std::string& run);

  const RunDirectory& run_;
  std::map<std::string, RunState> runs_;  ///< by id
};

/// What an attempt's workers told of themselves when they were up.
struct StartedWorkers {
  nlohmann::json event;               ///< worker_started; null: they did not come so far, or it cannot be read
  std::vector<std::string> warnings;  ///< what cannot be read of the attempt's journal: "file:line: ..."
};

/// From the journal of the run that the attempt's folder lies in.
StartedWorkers started_workers(const std::filesystem::path& attempt);

}  // namespace braise::journal
