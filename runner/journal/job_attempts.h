// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
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

}  // namespace braise::journal
