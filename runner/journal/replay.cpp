// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/replay.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <limits>
#include <set>
#include <sstream>
#include <tuple>

#include "runner/journal/event.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/io/json_lines.h"

namespace braise::journal {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {

constexpr const char* kExtension = ".jsonl";

/// A thread costs about as much as reading some files.
constexpr std::size_t kFilesOfAThread = 50;
constexpr std::size_t kMostThreads = 4;

std::map<std::string, stages::Output> outputs_of(const json& event) {
  std::map<std::string, stages::Output> outputs;
  for (const auto& [name, output] : event.at("outputs").items()) outputs[name] = stages::Output::from_json(output);
  return outputs;
}

AttemptName name_of(const json& event) {
  return {event.at("job"), event.at("attempt"), event.at("token")};
}

std::int64_t time_of(const json& event) {
  return io::parse_utc(event.at("time").get_ref<const std::string&>());
}

std::optional<int> number_of(const json& value) {
  return value.is_null() ? std::nullopt : std::optional<int>(value.get<int>());
}

AttemptState attempt_state(const std::string& outcome) {
  if (outcome == "completed") return AttemptState::completed;
  return outcome == "stopped" ? AttemptState::stopped : AttemptState::failed;
}

/// Puts events together, one file after another.
class Replay {
 public:
  RunState run(std::vector<JournalFile> files) {
    std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.writer < b.writer; });
    // Runners by their session; after each, the supervisors of its submission by their attempts.
    std::vector<std::pair<std::pair<int, int>, const JournalFile*>> runners;
    for (const JournalFile& file : files) {
      state_.warnings.insert(state_.warnings.end(), file.warnings.begin(), file.warnings.end());
      if (const auto order = order_of(file)) runners.emplace_back(*order, &file);
    }
    std::stable_sort(runners.begin(), runners.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [unused, file] : runners) take(*file);
    // Runners first: they say which attempts there were, against which workers' events are held.
    for (const JournalFile& file : files) {
      const bool by_runner =
          std::any_of(runners.begin(), runners.end(), [&](const auto& r) { return r.second == &file; });
      if (!by_runner) take(file);
    }
    for (auto& [unused, job] : state_.jobs) {
      std::stable_sort(job.attempts.begin(), job.attempts.end(),
                       [](const auto& a, const auto& b) { return a.name.number < b.name.number; });
      settle(job);
    }
    return std::move(state_);
  }

 private:
  /// The place of a runner's or a supervisor's file among those; nothing for a worker's.
  static std::optional<std::pair<int, int>> order_of(const JournalFile& file) {
    std::optional<std::pair<int, int>> order;
    for (const json& event : file.events) {
      const std::string& what = event.at("event").get_ref<const std::string&>();
      if (what == "runner_started") return std::pair(event.at("session").get<int>(), 0);
      if (what == "supervisor_started") order.emplace(event.at("session"), std::numeric_limits<int>::max());
      const bool is_numbered = what == "attempt_started" || (what == "job_requeued" && event.contains("attempt"));
      if (is_numbered && order) return std::pair(order->first, event.at("attempt").get<int>());
    }
    return order;
  }

  void take(const JournalFile& file) {
    file_ = &file;
    for (std::size_t i = 0; i < file.events.size(); ++i) {
      line_ = file.lines[i];
      take(file.events[i]);
    }
  }

  void take(const json& event) {
    const std::string& what = event.at("event").get_ref<const std::string&>();
    if (what == "runner_started") return start_session(event);
    if (what == "runner_ended") return end_session(event);
    if (what == "stop_requested") return note_stop(event);
    if (what == "group_submitted") return note_submission(event);
    JobRecord& job = state_.jobs[event.at("job").get<std::string>()];
    if (what == "supervisor_started") {
      job.nodes = event.at("nodes");
      return;
    }
    if (what == "attempt_started") return start_attempt(job, event);
    if (what == "job_requeued") return requeue(job, event);
    if (what == "job_reused") return reuse(job, event);
    if (what == "job_failed" || what == "job_blocked") return note_failure(job, what, event);
    AttemptRecord* attempt = find_attempt(job, event);
    if (attempt == nullptr) return;
    if (what == "attempt_ended") {
      end_attempt(job, *attempt, event);
    } else if (what == "job_completed") {
      complete(
          job,
          {attempt->name, event.at("fingerprint"), {attempt->name.path(), outputs_of(event)}, true, time_of(event)});
    } else if (what != "worker_started") {
      take_ending(*attempt, what, event);
    }
  }

  void start_session(const json& event) {
    Session session;
    session.number = event.at("session");
    session.writer = file_->writer;
    session.pid = event.at("pid");
    session.host = event.at("host");
    session.started_us = time_of(event);
    state_.sessions.push_back(std::move(session));
    // What an earlier runner gave up, this one tries again.
    for (auto& [unused, job] : state_.jobs) {
      for (AttemptRecord& attempt : job.attempts) {
        if (attempt.state == AttemptState::running) attempt.state = AttemptState::lost;
      }
      job.slurm_job.clear();
      job.off_nodes.clear();
      job.idle_requeues = 0;
      job.given_up = false;
      if (job.completion) continue;
      job.state = JobState::waiting;
      job.reason.clear();
      job.by.clear();
    }
  }

  void note_submission(const json& event) {
    if (state_.sessions.empty() || state_.sessions.back().writer != file_->writer)
      return warn("comes before its runner_started");
    state_.sessions.back().submitted = true;
    const std::string slurm_job = event.at("slurm_job");
    const json& jobs = event.at("jobs");
    const json& indices = event.at("indices");
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      std::string& id = state_.jobs[jobs[i].get<std::string>()].slurm_job;
      id = slurm_job;
      if (i < indices.size()) id += "_" + std::to_string(indices[i].get<int>());
    }
  }

  static void requeue(JobRecord& job, const json& event) {
    ++job.idle_requeues;
    std::istringstream nodes(event.at("off_nodes").get<std::string>());
    for (std::string node; std::getline(nodes, node, ',');) job.off_nodes.insert(node);
    if (job.completion) return;
    job.state = JobState::waiting;
    job.reason = event.at("reason");
  }

  void end_session(const json& event) {
    if (state_.sessions.empty() || state_.sessions.back().writer != file_->writer)
      return warn("comes before its runner_started");
    state_.sessions.back().outcome = event.at("outcome");
    state_.sessions.back().ended_us = time_of(event);
  }

  void note_stop(const json& event) {
    const auto meant = std::find_if(state_.sessions.begin(), state_.sessions.end(),
                                    [&](const Session& s) { return s.writer == event.at("runner"); });
    if (meant == state_.sessions.end()) return warn("is meant for an unknown runner");
    const StopMode mode = event.at("mode") == "stop" ? StopMode::stop : StopMode::kill;
    if (!meant->stop_requested || mode == StopMode::kill) meant->stop_requested = mode;
  }

  void start_attempt(JobRecord& job, const json& event) {
    AttemptRecord attempt;
    attempt.name = name_of(event);
    if (!state_.sessions.empty()) attempt.session = state_.sessions.back().number;
    attempt.fingerprint = event.at("fingerprint");
    attempt.ranks = event.at("ranks");
    attempt.threads = event.at("threads");
    attempt.cores = event.at("cores").get<std::vector<int>>();
    attempt.started_us = time_of(event);
    job.last_attempt = std::max(job.last_attempt, attempt.name.number);
    job.idle_requeues = 0;
    // A job has one attempt at a time: the supervisor of an earlier one was killed, or has lost the job to this one.
    for (AttemptRecord& earlier : job.attempts) {
      if (earlier.state == AttemptState::running) earlier.state = AttemptState::lost;
    }
    job.attempts.push_back(std::move(attempt));
    if (!job.completion) job.state = JobState::running;
  }

  void end_attempt(JobRecord& job, AttemptRecord& attempt, const json& event) {
    attempt.state = attempt_state(event.at("outcome").get_ref<const std::string&>());
    attempt.ended_us = time_of(event);
    attempt.exit_code = number_of(event.at("exit_code"));
    attempt.signal = number_of(event.at("signal"));
    attempt.reason = event.at("reason");
    if (job.completion || attempt.state == AttemptState::completed) return;
    job.state = attempt.state == AttemptState::stopped ? JobState::stopped : JobState::failed;
    job.reason = attempt.state == AttemptState::failed ? attempt.reason : "";
  }

  void complete(JobRecord& job, Completion completion) {
    job.state = JobState::completed;
    job.reason.clear();
    job.by.clear();
    job.completion = std::move(completion);
  }

  void reuse(JobRecord& job, const json& event) {
    const AttemptName name = name_of(event);
    job.last_attempt = std::max(job.last_attempt, name.number);
    complete(job, {name, event.at("fingerprint"), {name.path(), outputs_of(event)}, true, time_of(event)});
    job.state = JobState::reused;
    job.from_run = event.at("from_run");
    job.from_job = event.at("from_job");
  }

  void note_failure(JobRecord& job, const std::string& what, const json& event) {
    if (job.completion) return warn("comes after the job was completed");
    job.state = what == "job_failed" ? JobState::failed : JobState::blocked;
    job.given_up = true;
    job.reason = event.value("reason", "");
    job.by = event.value("by", "");
  }

  /// A worker's last word, which counts as long as no runner has ended the attempt.
  void take_ending(AttemptRecord& attempt, const std::string& what, const json& event) {
    if (what == "stage_completed") attempt.outputs = outputs_of(event);
    if (attempt.state != AttemptState::running && attempt.state != AttemptState::lost) return;
    attempt.ended_us = time_of(event);
    if (what == "stage_completed") {
      attempt.state = AttemptState::completed;
    } else if (what == "stage_stopped") {
      attempt.state = AttemptState::stopped;
    } else {
      attempt.state = AttemptState::failed;
      attempt.reason = describe_failure(event);
    }
  }

  /// What a worker said after its runner's death.
  static void settle(JobRecord& job) {
    if (job.completion || job.attempts.empty()) return;
    for (auto attempt = job.attempts.rbegin(); attempt != job.attempts.rend(); ++attempt) {
      if (attempt->state != AttemptState::completed || !attempt->outputs) continue;
      job.state = JobState::completed;
      job.reason.clear();
      job.by.clear();
      job.completion = Completion{
          attempt->name, attempt->fingerprint, {attempt->name.path(), *attempt->outputs}, false, attempt->ended_us};
      return;
    }
    const AttemptRecord& last = job.attempts.back();
    if (job.state != JobState::running || last.state == AttemptState::running) return;
    job.state = last.state == AttemptState::failed ? JobState::failed : JobState::stopped;
    job.reason = last.reason;
  }

  AttemptRecord* find_attempt(JobRecord& job, const json& event) {
    const AttemptName name = name_of(event);
    for (AttemptRecord& attempt : job.attempts) {
      if (attempt.name == name) return &attempt;
    }
    warn("is of an attempt that no runner has started: ignored");
    return nullptr;
  }

  void warn(const std::string& what) {
    state_.warnings.push_back(file_->writer + kExtension + ":" + std::to_string(line_) + ": event " + what);
  }

  RunState state_;
  const JournalFile* file_ = nullptr;
  std::size_t line_ = 0;
};

}  // namespace

const char* to_string(JobState state) {
  constexpr const char* kNames[] = {"waiting", "running", "completed", "reused", "stopped", "failed", "blocked"};
  return kNames[static_cast<int>(state)];
}

const char* to_string(AttemptState state) {
  constexpr const char* kNames[] = {"running", "completed", "stopped", "failed", "lost"};
  return kNames[static_cast<int>(state)];
}

const JobRecord* RunState::find(const std::string& job) const {
  const auto found = jobs.find(job);
  return found == jobs.end() ? nullptr : &found->second;
}

JobState RunState::state_of(const std::string& job) const {
  const JobRecord* record = find(job);
  return record == nullptr ? JobState::waiting : record->state;
}

std::string describe_failure(const json& failure) {
  const std::string place = failure.value("place", "");
  return "rank " + std::to_string(failure.value("rank", -1)) + " on host " + failure.value("host", "?") + ": " +
         (place.empty() ? "" : place + ": ") + failure.value("message", "?");
}

JournalFile read_journal_file(const fs::path& journal_dir, const std::string& writer) {
  JournalFile file;
  file.writer = writer;
  const fs::path path = journal_dir / (writer + kExtension);
  if (!fs::exists(path)) return file;
  io::JsonLines lines = io::read_json_lines(path);
  file.warnings = std::move(lines.warnings);
  for (std::size_t i = 0; i < lines.objects.size(); ++i) {
    std::string fault = event_fault(lines.objects[i]);
    if (fault.empty() && lines.objects[i].at("writer") != writer) fault = "event of another writer";
    if (fault.empty()) {
      file.events.push_back(std::move(lines.objects[i]));
      file.lines.push_back(lines.lines[i]);
    } else {
      file.warnings.push_back(writer + kExtension + ":" + std::to_string(lines.lines[i]) + ": " + fault + ": skipped");
    }
  }
  return file;
}

namespace {

/// The names of the files that workers wrote of attempts which were ended by their runners, at jobs that are completed.
std::set<std::string> decided(const std::vector<JournalFile>& runners) {
  std::map<std::string, std::vector<std::string>> ended;  // by job
  std::set<std::string> completed, names;
  for (const JournalFile& file : runners) {
    for (const json& event : file.events) {
      const std::string& what = event.at("event").get_ref<const std::string&>();
      if (what == "attempt_ended") ended[event.at("job").get<std::string>()].push_back(name_of(event).writer());
      if (what == "job_completed") completed.insert(event.at("job").get<std::string>());
    }
  }
  for (const std::string& job : completed) names.insert(ended[job].begin(), ended[job].end());
  return names;
}

/// Reads files side by side: parsing them takes longer than all that is made of them.
std::vector<JournalFile> read_files(const fs::path& journal_dir, const std::vector<std::string>& writers) {
  std::vector<JournalFile> files(writers.size());
  std::atomic<std::size_t> next = 0;
  const auto read = [&] {
    for (std::size_t i = next++; i < writers.size(); i = next++) files[i] = read_journal_file(journal_dir, writers[i]);
  };
  const std::size_t helpers = std::min<std::size_t>(writers.size() / kFilesOfAThread, kMostThreads - 1);
  std::vector<std::future<void>> helping;
  for (std::size_t i = 0; i < helpers; ++i) helping.push_back(std::async(std::launch::async, read));
  read();
  for (std::future<void>& helper : helping) helper.get();
  return files;
}

}  // namespace

std::vector<JournalFile> read_journal(const fs::path& journal_dir) {
  std::vector<std::string> first, workers;
  for (const fs::directory_entry& entry : fs::directory_iterator(journal_dir)) {
    if (entry.path().extension() != kExtension) continue;
    const std::string name = entry.path().stem().string();
    // All that runners, supervisors and `cancel` write, and workers of jobs with such names.
    const bool may_decide = name.starts_with("runner-") || name.starts_with("slurm-") || name.starts_with("cancel-");
    (may_decide ? first : workers).push_back(name);
  }
  std::vector<JournalFile> files = read_files(journal_dir, first);
  const std::set<std::string> decided_names = decided(files);
  std::erase_if(workers, [&](const std::string& name) { return decided_names.contains(name); });
  for (JournalFile& file : read_files(journal_dir, workers)) files.push_back(std::move(file));
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.writer < b.writer; });
  return files;
}

RunState replay(std::vector<JournalFile> files) {
  return Replay().run(std::move(files));
}

RunState replay(const RunDirectory& run) {
  return replay(read_journal(run.journal_dir()));
}

}  // namespace braise::journal
