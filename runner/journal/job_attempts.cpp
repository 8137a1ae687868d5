// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/job_attempts.h"

#include <set>
#include <utility>

#include "kernels/core/error.h"

namespace braise::journal {
namespace fs = std::filesystem;
namespace {

/// Whether a text is a name in a folder.
bool is_name(const std::string& text) {
  return !text.empty() && text.front() != '.' && text.find('/') == std::string::npos;
}

}  // namespace

std::vector<fs::path> JobAttempts::of(const std::string& job) {
  const JobPlace place = trail(job).back();
  const JobRecord* record = journal_of(place.run.filename()).find(place.job);
  if (record == nullptr || record->state == JobState::reused) return {};
  std::vector<fs::path> folders;
  for (const AttemptRecord& attempt : record->attempts) folders.push_back(place.run / attempt.name.path());
  return folders;
}

std::vector<JobPlace> JobAttempts::trail(const std::string& job) {
  std::vector<JobPlace> places = {{run_.path(), job}};
  std::set<std::string> seen;  // a damaged journal may lead round in a circle
  while (seen.insert(places.back().run.string() + "/" + places.back().job).second) {
    const JobRecord* record = journal_of(places.back().run.filename()).find(places.back().job);
    if (record == nullptr || record->state != JobState::reused) break;
    // The journal of an archive is a stranger's: it leads to jobs of runs beside this one and nowhere else.
    if (!is_name(record->from_run) || !is_name(record->from_job)) break;
    places.push_back({folder_of(record->from_run), record->from_job});
  }
  return places;
}

fs::path JobAttempts::folder_of(const std::string& run) const {
  if (run == run_.id()) return run_.path();
  const fs::path kept = run_.reused_dir() / run;
  return RunDirectory::is_run(kept) ? kept : run_.runs_dir() / run;
}

const RunState& JobAttempts::journal_of(const std::string& run) {
  const auto [known, is_new] = runs_.try_emplace(run);
  if (is_new) {
    try {
      known->second = replay(RunDirectory::open(folder_of(run)));
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
