// SPDX-License-Identifier: Apache-2.0
#include "runner/report/status.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "runner/report/format.h"
#include "runner/report/plan_text.h"
#include "runner/report/training.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/io/file.h"
#include "stages/shared/telemetry/metrics_lines.h"

namespace braise::report {
namespace {

using journal::AttemptRecord;
using journal::JobRecord;
using journal::JobState;

/// A job that no event names yet is waiting. One that seems to run does not where its runner is gone.
std::string state_text(const JobRecord* record, bool run_is_held) {
  if (record == nullptr) return journal::to_string(JobState::waiting);
  if (record->state == JobState::running && !run_is_held) return "interrupted";
  return journal::to_string(record->state);
}

double seconds_of(const AttemptRecord& attempt, bool running) {
  if (attempt.started_us == 0) return -1;
  if (attempt.ended_us != 0) return static_cast<double>(attempt.ended_us - attempt.started_us) / 1e6;
  return running ? static_cast<double>(io::utc_us() - attempt.started_us) / 1e6 : -1;
}

/// The attempt that speaks for a job: the one that completed it, else the latest; empty where there is none.
std::string attempt_dir(const JobRecord& record) {
  if (record.completion) return record.completion->completed.attempt_dir;
  return record.attempts.empty() ? "" : record.attempts.back().name.path();
}

std::string remark(const JobRecord& record, const std::string& state, const journal::RunDirectory& run) {
  if (record.state == JobState::reused) return "unchanged since " + record.from_run;
  if (record.state == JobState::blocked) return "needs `" + record.by + "`";
  const std::string folder = attempt_dir(record);
  const nlohmann::json latest = folder.empty() ? nlohmann::json() : latest_metrics(run.path() / folder);
  if (state == "running") return telemetry::progress_text(latest);
  std::string text = record.state == JobState::failed ? record.reason : "";
  if (is_training(latest)) text += (text.empty() ? "" : "; ") + standing_text(latest);
  const std::string expectation = expectation_text(latest);
  return text + (expectation.empty() ? "" : "; " + expectation);
}

nlohmann::json time_json(std::int64_t us) {
  return us == 0 ? nlohmann::json() : nlohmann::json(io::format_utc(us));
}

}  // namespace

RunStatus read_status(const journal::RunDirectory& run) {
  RunStatus status;
  status.id = run.id();
  const bool held = run.holder().has_value();
  status.plan = plan::Plan::from_json(nlohmann::json::parse(io::read_file(run.plan_file()), nullptr, false));
  status.journal = journal::replay(run);
  status.recipe = status.plan.recipe_name;
  for (const plan::Job& job : status.plan.jobs) ++status.counts[state_text(status.journal.find(job.spec.job), held)];
  if (!status.journal.sessions.empty()) {
    status.started_us = status.journal.sessions.front().started_us;
    status.ended_us = held ? 0 : status.journal.sessions.back().ended_us;
  }
  const int finished = status.counts["completed"] + status.counts["reused"];
  std::erase_if(status.counts, [](const auto& entry) { return entry.second == 0; });
  if (held) {
    status.state = "running";
  } else if (finished == static_cast<int>(status.plan.jobs.size())) {
    status.state = "completed";
  } else if (status.journal.sessions.empty() || status.journal.sessions.back().outcome.empty()) {
    status.state = "interrupted";
  } else {
    status.state = status.journal.sessions.back().outcome;
  }
  return status;
}

nlohmann::json latest_metrics(const std::filesystem::path& attempt_dir) {
  // Enough for some hundred lines: the last validation is most often among them.
  constexpr std::int64_t kTail = 65536;
  std::ifstream file(attempt_dir / "metrics.jsonl", std::ios::binary | std::ios::ate);
  if (!file) return nullptr;
  const auto size = static_cast<std::int64_t>(file.tellg());
  const std::int64_t begin = std::max<std::int64_t>(0, size - kTail);
  file.seekg(begin);
  std::string text;
  if (begin > 0) std::getline(file, text);
  nlohmann::json latest;
  while (std::getline(file, text) && !file.eof()) {  // what has no newline yet is still being written
    const nlohmann::json line = nlohmann::json::parse(text, nullptr, false);
    if (line.is_object()) telemetry::take_in(latest, line);
  }
  return latest;
}

std::string status_text(const RunStatus& status, const journal::RunDirectory& run) {
  std::string counts;
  for (const auto& [state, count] : status.counts) {
    counts += (counts.empty() ? "" : ", ") + std::to_string(count) + " " + state;
  }
  std::string text = status.id + ": " + status.state + " (" + counts + ")\n";
  const bool held = status.state == "running";
  Table table({"job", "kind", "state", "attempts", "time", ""});
  for (const plan::Job& job : status.plan.jobs) {
    const JobRecord* record = status.journal.find(job.spec.job);
    const std::string state = state_text(record, held);
    std::string time = "-", note;
    std::size_t attempts = 0;
    if (record != nullptr) {
      attempts = record->attempts.size();
      const double seconds = record->attempts.empty() ? -1 : seconds_of(record->attempts.back(), state == "running");
      if (seconds >= 0) time = duration_text(seconds);
      note = remark(*record, state, run);
    }
    const std::string parameters = parameters_text(job.parameters, job.spec.stage);
    if (!parameters.empty()) note = parameters + (note.empty() ? "" : "; " + note);
    table.add({job.spec.job, job.spec.kind, state, attempts == 0 ? "-" : std::to_string(attempts), time, note});
  }
  text += table.text("  ");
  for (const std::string& warning : status.journal.warnings) text += "warning: " + warning + "\n";
  if (status.state != "running" && status.state != "completed")
    text += "Continue it with: braise resume " + run.path().string() + "\n";
  return text;
}

nlohmann::json status_json(const RunStatus& status, const journal::RunDirectory& run) {
  const bool held = status.state == "running";
  nlohmann::json jobs = nlohmann::json::array();
  for (const plan::Job& job : status.plan.jobs) {
    nlohmann::json entry = {{"job", job.spec.job}, {"kind", job.spec.kind}, {"parameters", job.parameters}};
    const JobRecord* record = status.journal.find(job.spec.job);
    entry["state"] = state_text(record, held);
    entry["attempts"] = nlohmann::json::array();
    if (record != nullptr) {
      if (!attempt_dir(*record).empty()) entry["attempt_dir"] = attempt_dir(*record);
      if (!record->reason.empty()) entry["reason"] = record->reason;
      if (!record->by.empty()) entry["blocked_by"] = record->by;
      if (!record->from_run.empty()) entry["reused_from"] = record->from_run;
      for (const AttemptRecord& attempt : record->attempts) {
        entry["attempts"].push_back({{"folder", attempt.name.path()},
                                     {"state", journal::to_string(attempt.state)},
                                     {"reason", attempt.reason},
                                     {"started", time_json(attempt.started_us)},
                                     {"ended", time_json(attempt.ended_us)}});
      }
      if (record->completion) {
        entry["fingerprint"] = record->completion->fingerprint;
        for (const auto& [name, output] : record->completion->completed.outputs) {
          entry["outputs"][name] = output.to_json();
          entry["outputs"][name]["digest"] = output.digest();
        }
      }
      if (!attempt_dir(*record).empty() && record->state != JobState::reused) {
        nlohmann::json latest = latest_metrics(run.path() / attempt_dir(*record));
        if (entry["state"] == "running" || is_training(latest)) entry["metrics"] = std::move(latest);
      }
    }
    jobs.push_back(std::move(entry));
  }
  return {{"run", status.id},
          {"path", run.path().string()},
          {"recipe", status.recipe},
          {"state", status.state},
          {"started", time_json(status.started_us)},
          {"ended", time_json(status.ended_us)},
          {"jobs", jobs},
          {"warnings", status.journal.warnings}};
}

}  // namespace braise::report
