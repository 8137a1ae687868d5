// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/job_attempts.h"

#include <set>
#include <utility>

#include "kernels/core/error.h"

namespace braise::journal {
namespace fs = std::filesystem;

std::vector<fs::path> JobAttempts::of(const std::string& job) {
  std::string run = run_.id(), name = job;
  std::set<std::string> seen;  // a damaged journal may lead round in a circle
  while (seen.insert(run + "/" + name).second) {
    const JobRecord* record = journal_of(run).find(name);
    if (record == nullptr) return {};
    if (record->state != JobState::reused) {
      std::vector<fs::path> folders;
      for (const AttemptRecord& attempt : record->attempts) {
        folders.push_back(run_.runs_dir() / run / attempt.name.path());
      }
      return folders;
    }
    run = record->from_run;
    name = record->from_job;
  }
  return {};
}

const RunState& JobAttempts::journal_of(const std::string& run) {
  const auto [known, is_new] = runs_.try_emplace(run);
  if (is_new) {
    try {
      known->second = replay(RunDirectory::open(run_.runs_dir() / run));
    } catch (const core::Error&) {
      // It was removed: what it told of its jobs is gone with it.
    }
  }
  return known->second;
}

StartedWorkers started_workers(const fs::path& attempt) {
  const fs::path job = attempt.parent_path().parent_path();
  const fs::path run = job.parent_path().parent_path();
  JournalFile file = read_journal_file(run / "journal", job.filename().string() + "-" + attempt.filename().string());
  StartedWorkers started{nullptr, std::move(file.warnings)};
  for (nlohmann::json& event : file.events) {
    if (event.at("event") == "worker_started") started.event = std::move(event);
  }
  return started;
}

}  // namespace braise::journal
