// SPDX-License-Identifier: Apache-2.0
#include "runner/report/status.h"

#include <algorithm>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "runner/journal/run_files.h"
#include "runner/launch/slurm/script.h"
#include "runner/plan/settle.h"
#include "runner/report/format.h"
#include "runner/report/plan_text.h"
#include "runner/report/training.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/telemetry/metrics_lines.h"

namespace braise::report {
namespace {

using journal::AttemptRecord;
using journal::JobRecord;
using journal::JobState;

constexpr auto kAccountingPatience = std::chrono::seconds(10);

/// Puts each job together from what the journal and Slurm say of it.
class States {
 public:
  States(RunStatus& status, const Queue& queue, const std::string& run_id, bool held)
      : status_(status), held_(held), known_(queue.problem.empty()) {
    const auto& sessions = status.journal.sessions;
    submitted_ = !sessions.empty() && sessions.back().submitted;
    if (!submitted_) return;
    std::map<std::string, const launch::slurm::QueueEntry*> by_id;
    const std::string mine = launch::slurm::comment_prefix(run_id);
    for (const launch::slurm::QueueEntry& entry : queue.entries) {
      if (entry.comment.starts_with(mine)) by_id[entry.id] = &entry;
    }
    for (const auto& [job, record] : status.journal.jobs) {
      if (const auto entry = by_id.find(record.slurm_job); entry != by_id.end()) status.queue[job] = *entry->second;
    }
  }

  bool is_alive(const std::string& job) const {
    const auto entry = status_.queue.find(job);
    return entry != status_.queue.end() && entry->second.is_alive();
  }

  /// Jobs come in the order of the plan: those that a job needs are settled before it.
  std::string of(const plan::Job& job) const {
    const JobRecord* record = status_.journal.find(job.spec.job);
    const JobState state = record == nullptr ? JobState::waiting : record->state;
    if (!submitted_) return state == JobState::running && !held_ ? "interrupted" : journal::to_string(state);
    if (record == nullptr || record->completion || record->given_up) return journal::to_string(state);
    if (is_alive(job.spec.job)) {
      return status_.queue.at(job.spec.job).state == "RUNNING" ? "running" : "queued";
    }
    if (!known_) return state == JobState::stopped ? "stopped" : "unknown";
    for (const std::string& needed : job.needs) {
      const std::string& its = status_.states.at(needed);
      if (its == "failed" || its == "blocked") return "blocked";
    }
    if (state != JobState::waiting && state != JobState::running) return journal::to_string(state);
    if (held_) return journal::to_string(JobState::waiting);
    return status_.journal.sessions.back().stop_requested ? "stopped" : "interrupted";
  }

 private:
  RunStatus& status_;
  const bool held_;
  const bool known_;
  bool submitted_ = false;
};

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

/// "Slurm job 12_3: NODE_FAIL on n1 (Reason)": how a job ended that its supervisor could tell nothing of.
std::string ended_text(const launch::slurm::QueueEntry& entry) {
  std::string text = "Slurm job " + entry.id + ": " + entry.state;
  if (!entry.nodes.empty()) text += " on " + entry.nodes;
  return entry.reason.empty() || entry.reason == "None" ? text : text + " (" + entry.reason + ")";
}

/// "in Slurm's queue as 12_3 (Resources); its time was up".
std::string queued_text(const launch::slurm::QueueEntry& entry, const std::string& reason) {
  std::string text = "in Slurm's queue as " + entry.id;
  if (!entry.reason.empty() && entry.reason != "None") text += " (" + entry.reason + ")";
  return text + (reason.empty() ? "" : "; " + reason);
}

/// What the attempt that speaks for a job last told; null where nothing of it would be shown: of what has ended, only
/// trainings tell how they stand. Reading it for each of 1,000 jobs would take longer than their journal.
nlohmann::json telling(const plan::Job& job, const JobRecord& record, const std::string& state,
                       const journal::RunDirectory& run) {
  if (record.state == JobState::reused || (state != "running" && job.spec.kind != "train")) return nullptr;
  const std::string folder = attempt_dir(record);
  return folder.empty() ? nlohmann::json() : latest_metrics(run.path() / folder);
}

std::string remark(const RunStatus& status, const plan::Job& planned, const JobRecord& record, const std::string& state,
                   const journal::RunDirectory& run) {
  const std::string& job = planned.spec.job;
  if (record.state == JobState::reused) return "unchanged since " + record.from_run;
  if (record.state == JobState::blocked) return "needs `" + record.by + "`";
  if (state == "queued") return queued_text(status.queue.at(job), record.reason);
  const auto slurm = status.queue.find(job);
  const nlohmann::json latest = telling(planned, record, state, run);
  if (state == "running") return telemetry::progress_text(latest);
  std::string text = record.state == JobState::failed ? record.reason : "";
  if (state == "interrupted" && slurm != status.queue.end()) text = ended_text(slurm->second);
  if (is_training(latest)) text += (text.empty() ? "" : "; ") + standing_text(latest);
  const std::string expectation = expectation_text(latest);
  return text + (expectation.empty() ? "" : "; " + expectation);
}

/// When the last thing happened: on Slurm, jobs go on after the runner that submitted them.
std::int64_t ended_us(const journal::RunState& state) {
  std::int64_t latest = state.sessions.back().ended_us;
  if (!state.sessions.back().submitted) return latest;
  for (const auto& [unused, job] : state.jobs) {
    for (const AttemptRecord& attempt : job.attempts) latest = std::max(latest, attempt.ended_us);
  }
  return latest;
}

nlohmann::json time_json(std::int64_t us) {
  return us == 0 ? nlohmann::json() : nlohmann::json(io::format_utc(us));
}

/// Whether jobs of the run were ever given to Slurm.
bool was_submitted(const journal::RunDirectory& run) {
  return std::filesystem::exists(run.path() / "slurm");
}

/// Gives jobs of points that have been chosen the points' parameters.
void show_choices(RunStatus& status, const journal::RunDirectory& run) {
  const auto completed = [&](const std::string& job) -> const plan::Completed* {
    const JobRecord* record = status.journal.find(job);
    return record != nullptr && record->completion ? &record->completion->completed : nullptr;
  };
  const plan::Outcomes outcomes = plan::outcomes_in(run.path(), completed);
  std::string why;
  for (plan::Job& job : status.plan.jobs) {
    if (!job.choice || completed(job.choice->select) == nullptr) continue;
    const std::optional<plan::Job> settled = plan::settle(status.plan, job, outcomes, why);
    if (settled) job.parameters = settled->parameters;
  }
}

}  // namespace

Queue ask_queue(const std::vector<journal::RunDirectory>& runs, std::chrono::milliseconds patience) {
  std::vector<std::string> prefixes;
  for (const journal::RunDirectory& run : runs) {
    if (was_submitted(run)) prefixes.push_back(launch::slurm::comment_prefix(run.id()));
  }
  Queue queue;
  if (prefixes.empty()) return queue;
  launch::slurm::Client client;
  client.patience = patience;
  try {
    queue.entries = client.queue(prefixes.size() == 1 ? prefixes.front() : launch::slurm::kCommentStart);
  } catch (const core::Error& error) {
    queue.problem = error.what();
  }
  return queue;
}

void add_accounting(RunStatus& status) {
  std::vector<std::string> ids;
  std::map<std::string, std::string> jobs;
  for (const auto& [job, record] : status.journal.jobs) {
    const auto state = status.states.find(job);
    if (record.slurm_job.empty() || status.queue.contains(job) || state == status.states.end() ||
        state->second != "interrupted") {
      continue;
    }
    ids.push_back(record.slurm_job);
    jobs[record.slurm_job] = job;
  }
  if (ids.empty()) return;
  launch::slurm::Client client;
  client.patience = kAccountingPatience;
  try {
    for (launch::slurm::QueueEntry& entry : client.accounting(ids)) {
      if (const auto job = jobs.find(entry.id); job != jobs.end()) status.queue[job->second] = std::move(entry);
    }
  } catch (const core::Error& error) {
    status.journal.warnings.push_back(std::string("Slurm's accounting does not tell how jobs ended: ") + error.what());
  }
}

RunStatus read_status(const journal::RunDirectory& run, const Queue& queue) {
  RunStatus status;
  status.id = run.id();
  const bool held = run.holder().has_value();
  std::future<plan::Plan> plan = std::async(std::launch::async, [&] { return journal::read_plan(run); });
  status.journal = journal::replay(run);
  status.plan = plan.get();
  status.recipe = status.plan.recipe_name;
  show_choices(status, run);
  const States states(status, queue, run.id(), held);
  bool alive = held;
  for (const plan::Job& job : status.plan.jobs) {
    const std::string state = states.of(job);
    ++status.counts[state];
    status.states[job.spec.job] = state;
    alive = alive || states.is_alive(job.spec.job);
  }
  if (!status.journal.sessions.empty()) {
    status.started_us = status.journal.sessions.front().started_us;
    status.ended_us = alive ? 0 : ended_us(status.journal);
  }
  const auto count = [&](const char* state) {
    const auto found = status.counts.find(state);
    return found == status.counts.end() ? 0 : found->second;
  };
  const int finished = count("completed") + count("reused");
  if (finished == static_cast<int>(status.plan.jobs.size()) && !held) {
    status.state = "completed";
  } else if (alive) {
    status.state = "running";
  } else if (status.journal.sessions.empty() || status.journal.sessions.back().outcome.empty()) {
    status.state = "interrupted";
  } else if (status.journal.sessions.back().outcome != "submitted") {
    status.state = status.journal.sessions.back().outcome;
  } else {
    status.state = count("unknown") > 0       ? "unknown"
                   : count("failed") > 0      ? "failed"
                   : count("interrupted") > 0 ? "interrupted"
                                              : "stopped";
  }
  if (!queue.problem.empty() && was_submitted(run)) {
    status.journal.warnings.push_back("Slurm does not tell how jobs stand: " + queue.problem);
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
  Table table({"job", "kind", "state", "attempts", "time", ""});
  for (const plan::Job& job : status.plan.jobs) {
    const JobRecord* record = status.journal.find(job.spec.job);
    const std::string& state = status.states.at(job.spec.job);
    std::string time = "-", note;
    std::size_t attempts = 0;
    if (record != nullptr) {
      attempts = record->attempts.size();
      const double seconds = record->attempts.empty() ? -1 : seconds_of(record->attempts.back(), state == "running");
      if (seconds >= 0) time = duration_text(seconds);
      note = remark(status, job, *record, state, run);
    }
    const std::string parameters = parameters_text(job.parameters, job.spec.stage);
    if (!parameters.empty()) note = parameters + (note.empty() ? "" : "; " + note);
    table.add({job.spec.job, job.spec.kind, state, attempts == 0 ? "-" : std::to_string(attempts), time, note});
  }
  text += table.text("  ");
  for (const std::string& warning : status.journal.warnings) text += "warning: " + warning + "\n";
  if (status.state != "running" && status.state != "completed" && status.state != "unknown")
    text += "Continue it with: braise resume " + run.path().string() + "\n";
  return text;
}

nlohmann::json status_json(const RunStatus& status, const journal::RunDirectory& run) {
  nlohmann::json jobs = nlohmann::json::array();
  for (const plan::Job& job : status.plan.jobs) {
    nlohmann::json entry = {{"job", job.spec.job}, {"kind", job.spec.kind}, {"parameters", job.parameters}};
    const JobRecord* record = status.journal.find(job.spec.job);
    entry["state"] = status.states.at(job.spec.job);
    entry["attempts"] = nlohmann::json::array();
    if (record != nullptr) {
      if (!attempt_dir(*record).empty()) entry["attempt_dir"] = attempt_dir(*record);
      if (!record->reason.empty()) entry["reason"] = record->reason;
      if (!record->by.empty()) entry["blocked_by"] = record->by;
      if (!record->slurm_job.empty()) entry["slurm_job"] = record->slurm_job;
      if (const auto queued = status.queue.find(job.spec.job); queued != status.queue.end()) {
        entry["slurm"] = {
            {"state", queued->second.state}, {"reason", queued->second.reason}, {"nodes", queued->second.nodes}};
      }
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
      nlohmann::json latest = telling(job, *record, status.states.at(job.spec.job), run);
      if (!attempt_dir(*record).empty() && (entry["state"] == "running" || is_training(latest))) {
        entry["metrics"] = std::move(latest);
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
