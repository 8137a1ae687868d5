// SPDX-License-Identifier: Apache-2.0
#include "runner/schedule/scheduler.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "kernels/core/error.h"
#include "runner/journal/event.h"
#include "runner/journal/finished.h"
#include "runner/plan/bind.h"
#include "runner/plan/settle.h"
#include "runner/schedule/attempt.h"
#include "runner/schedule/capacity.h"
#include "runner/schedule/records.h"
#include "runner/schedule/reuse.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"

namespace braise::schedule {
namespace fs = std::filesystem;
using journal::AttemptName;
using journal::AttemptState;
using journal::JobState;
using journal::StopMode;
using nlohmann::json;
namespace {

/// How many later jobs may start while an earlier one waits for more cores or memory than are free. Without overtaking,
/// cores idle; without a bound, small jobs starve a big one.
constexpr int kMaxOvertakes = 8;

/// How many ready jobs that cannot start now are looked at before the rest is left for later: there may be thousands.
constexpr int kMaxPassedOver = 32;

std::string gibibytes(std::uint64_t bytes) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f GiB", static_cast<double>(bytes) / (1ull << 30));
  return text.data();
}

/// Empties the scratch of what a killed runner's attempts left; the lock is ours.
void clear_scratch(const fs::path& scratch) {
  std::error_code error;
  if (fs::is_symlink(scratch, error)) return;
  for (fs::directory_iterator entry(scratch, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    fs::remove_all(entry->path(), ignored);
  }
}

/// A job as the scheduler sees it.
struct Job {
  const plan::Job* plan = nullptr;
  JobState state = JobState::waiting;  ///< `waiting` also while it is ready, or taken over from elsewhere
  std::vector<std::size_t> needed_by;
  std::vector<std::size_t> awaited_by;  ///< jobs that need its end, well or not
  std::size_t needs_left = 0;           ///< of both
  stages::JobSpec spec;                 ///< bound, once `prepared`
  bool prepared = false;
  bool reusable = false;
  std::optional<journal::FinishedJob> finished_elsewhere;  ///< an equal job whose outputs are to be taken over
  plan::Completed completed;
  int last_attempt = 0;
  int failures = 0;
  int overtaken = 0;
};

class Scheduler {
 public:
  Scheduler(const plan::Plan& plan, const journal::RunDirectory& run, const journal::RunLock& lock,
            launch::Launcher& launcher, const launch::Machine& machine, const Options& options, Observer& observer,
            StopSignal& stop)
      : plan_(plan),
        run_(run),
        launcher_(launcher),
        options_(options),
        observer_(observer),
        stop_(stop),
        capacity_(machine),
        index_(run.runs_dir()),
        writer_(run.journal_dir(), lock.holder().writer),
        holder_(lock.holder()) {
    jobs_.resize(plan.jobs.size());
    for (std::size_t i = 0; i < jobs_.size(); ++i) {
      jobs_[i].plan = &plan.jobs[i];
      by_name_[plan.jobs[i].spec.job] = i;
    }
    for (std::size_t i = 0; i < jobs_.size(); ++i) {
      for (const std::string& needed : plan.jobs[i].needs) {
        assert(by_name_.contains(needed));
        jobs_[by_name_.at(needed)].needed_by.push_back(i);
      }
      for (const std::string& awaited : plan.awaited(plan.jobs[i])) {
        assert(by_name_.contains(awaited));
        jobs_[by_name_.at(awaited)].awaited_by.push_back(i);
      }
    }
  }

  Outcome run() {
    const journal::RunState before = journal::replay(run_);
    for (const std::string& text : before.warnings) observer_.warning(text);
    // Requests meant for earlier runners are none of ours; those that come from now on are looked at.
    clear_scratch(run_.scratch_dir());
    writer_.append({{"event", "runner_started"},
                    {"session", before.sessions.empty() ? 1 : before.sessions.back().number + 1},
                    {"pid", holder_.pid},
                    {"host", holder_.host},
                    {"command", options_.command}});
    restore(before);
    for (;;) {
      if (!stopping_) start_ready();
      if (running_.empty() && !reuse_) break;
      wait();
      take_requests();
      take_endings();
      take_reuse();
      look();
    }
    clear_scratch(run_.scratch_dir());
    const Outcome result = outcome();
    writer_.append({{"event", "runner_ended"}, {"outcome", to_string(result)}});
    return result;
  }

 private:
  // What earlier runners did.

  void restore(const journal::RunState& before) {
    for (Job& job : jobs_) {
      const journal::JobRecord* record = before.find(job.plan->spec.job);
      if (record == nullptr) continue;
      job.last_attempt = record->last_attempt;
      if (record->completion) restore_completed(job, *record);
    }
    for (std::size_t i = 0; i < jobs_.size(); ++i) {
      for (const std::string& needed : jobs_[i].plan->needs) {
        if (!is_done(jobs_[by_name_.at(needed)])) ++jobs_[i].needs_left;
      }
      for (const std::string& awaited : plan_.awaited(*jobs_[i].plan)) {
        if (!is_done(jobs_[by_name_.at(awaited)])) ++jobs_[i].needs_left;
      }
      if (jobs_[i].needs_left == 0 && !is_done(jobs_[i])) ready_.insert(i);
    }
  }

  void restore_completed(Job& job, const journal::JobRecord& record) {
    const journal::Completion& completion = *record.completion;
    if (const std::string problem = bad_output(run_, *job.plan, completion.completed); !problem.empty()) {
      observer_.warning("job " + job.plan->spec.job + " was completed, but " + problem + ": it runs again");
      return;
    }
    job.completed = completion.completed;
    job.state = record.state;
    if (completion.recorded) return;
    // Its runner was killed between the worker's last word and its own.
    job.spec.fingerprint = completion.fingerprint;
    job.reusable = is_reusable(job.plan->spec.kind);
    record_completed(job, completion.attempt);
  }

  // Starting jobs.

  void start_ready() {
    int passed_over = 0;
    for (auto next = ready_.begin();
         next != ready_.end() && capacity_.any_core_free() && passed_over < kMaxPassedOver && !stopping_;) {
      const std::size_t i = *next;
      Job& job = jobs_[i];
      if (const std::string why = prepare(job); !why.empty()) {
        next = ready_.erase(next);
        fail(i, why);
        continue;
      }
      if (job.finished_elsewhere) {
        if (reuse_) {  // one at a time: they share a disk
          ++next;
          ++passed_over;
        } else {
          next = ready_.erase(next);
          start_reuse(i);
        }
        continue;
      }
      std::optional<Share> share = capacity_.take(job.spec.resources);
      if (!share) {
        if (job.overtaken >= kMaxOvertakes) return;
        ++next;
        ++passed_over;
        continue;
      }
      for (auto earlier = ready_.begin(); *earlier != i; ++earlier) ++jobs_[*earlier].overtaken;
      next = ready_.erase(next);
      start(i, std::move(*share));
    }
  }

  /// Fixes what was not known before; why the job cannot be done, or empty.
  std::string prepare(Job& job) {
    if (job.prepared) return "";
    const auto completed = [this](const std::string& needed) -> const plan::Completed& {
      return jobs_[by_name_.at(needed)].completed;
    };
    const plan::Outcomes outcomes =
        plan::outcomes_in(run_.path(), [&](const std::string& name) -> const plan::Completed* {
          return is_done(jobs_[by_name_.at(name)]) ? &completed(name) : nullptr;
        });
    std::string why;
    const std::optional<plan::Job> settled = plan::settle(plan_, *job.plan, outcomes, why);
    if (!settled) return why;
    job.spec = plan::bind(*settled, completed);
    job.spec.run_id = run_.id();
    job.reusable = is_reusable(job.plan->spec.kind);
    write_job_file(run_, job.spec);
    if (job.reusable && !options_.fresh) job.finished_elsewhere = index_.find(job.spec.fingerprint);
    job.prepared = true;
    return "";
  }

  void start(std::size_t i, Share share) {
    Job& job = jobs_[i];
    warn_of_oversubscription(job.spec, share);
    const AttemptName name{job.spec.job, ++job.last_attempt, io::random_hex(6)};
    json cores = json::array();
    if (!share.oversubscribed) {
      for (const launch::Core& core : share.cores) cores.push_back(core.number);
    }
    record_started(writer_, name, job.spec, cores);
    observer_.attempt_started(name, job.spec);
    job.state = JobState::running;
    Attempt attempt(run_, job.spec, name, std::move(share), options_);
    try {
      attempt.launch(launcher_, std::nullopt);
    } catch (const core::Error& error) {
      end_attempt(i, attempt, {}, {AttemptState::failed, error.what()}, {});
      return;
    }
    running_.emplace(i, std::move(attempt));
  }

  void warn_of_oversubscription(const stages::JobSpec& spec, const Share& share) {
    if (share.oversubscribed && warned_.insert(spec.stage).second) {
      observer_.warning("stage " + spec.stage + " asks for " + std::to_string(spec.resources.ranks()) + " workers x " +
                        std::to_string(spec.resources.threads) + " threads on " + std::to_string(share.cores.size()) +
                        " cores: it runs oversubscribed, unbound and alone");
    }
  }

  // Taking over finished jobs.

  void start_reuse(std::size_t i) {
    Job& job = jobs_[i];
    reuse_name_ = AttemptName{job.spec.job, ++job.last_attempt, io::random_hex(6)};
    reuse_job_ = i;
    reuse_.emplace(index_, *job.finished_elsewhere, run_.path() / reuse_name_.path());
  }

  void take_reuse() {
    if (!reuse_ || !reuse_->done()) return;
    Job& job = jobs_[reuse_job_];
    const Reuse::Result result = reuse_->result();
    const journal::FinishedJob from = reuse_->job();
    const std::string problem = reuse_->problem();
    reuse_.reset();
    plan::Completed completed{reuse_name_.path(), from.completed.outputs};
    const std::string bad = result == Reuse::Result::taken ? bad_output(run_, *job.plan, completed) : problem;
    if (!bad.empty()) {
      observer_.warning("job " + job.spec.job + " is run, because what " + from.run +
                        " left of it cannot be reused: " + bad);
      index_.remove(job.spec.fingerprint);
      job.finished_elsewhere.reset();
    }
    if (result != Reuse::Result::taken || !bad.empty()) {
      ready_.insert(reuse_job_);
      return;
    }
    record_reused(writer_, reuse_name_, job.spec.fingerprint, completed, from);
    job.completed = std::move(completed);
    note_finished(job);
    job.state = JobState::reused;
    observer_.job_ended(job.spec.job, JobState::reused, from.run);
    release_needing(reuse_job_);
  }

  // Endings.

  void take_endings() {
    for (auto entry = running_.begin(); entry != running_.end();) {
      std::optional<Evidence> evidence = entry->second.poll(observer_);
      if (!evidence) {
        ++entry;
        continue;
      }
      auto ended = running_.extract(entry++);
      const std::size_t i = ended.key();
      const Attempt& attempt = ended.mapped();
      plan::Completed completed{attempt.name().path(), {}};
      if (evidence->report.outputs) {
        completed.outputs = *evidence->report.outputs;
        evidence->bad_output = bad_output(run_, *jobs_[i].plan, completed);
      }
      const Verdict verdict = judge(*evidence);
      end_attempt(i, attempt, evidence->ending, verdict, std::move(completed));
    }
  }

  void end_attempt(std::size_t i, const Attempt& attempt, const launch::Ending& ending, const Verdict& verdict,
                   plan::Completed completed) {
    Job& job = jobs_[i];
    record_ended(writer_, attempt.name(), ending, verdict);
    capacity_.give_back(attempt.share());
    job.state = JobState::waiting;
    if (verdict.state == AttemptState::failed) ++job.failures;
    const bool again =
        verdict.state == AttemptState::failed && job.failures <= job.spec.resources.retries && !stopping_;
    observer_.attempt_ended(attempt.name(), verdict.state, verdict.reason, again);
    if (again) {
      ready_.insert(i);
    } else if (verdict.state == AttemptState::completed) {
      if (!verdict.reason.empty()) observer_.warning("job " + job.spec.job + ": " + verdict.reason);
      job.completed = std::move(completed);
      record_completed(job, attempt.name());
      job.state = JobState::completed;
      observer_.job_ended(job.spec.job, JobState::completed, "");
      release_needing(i);
    } else if (verdict.state == AttemptState::stopped) {
      job.state = JobState::stopped;
      observer_.job_ended(job.spec.job, JobState::stopped, verdict.reason);
    } else {
      fail(i, verdict.reason);
    }
  }

  void record_completed(Job& job, const AttemptName& name) {
    schedule::record_completed(writer_, name, job.spec.fingerprint, job.completed);
    note_finished(job);
  }

  void note_finished(const Job& job) {
    if (!job.reusable) return;
    try {
      index_.add(job.spec.fingerprint, {run_.id(), job.plan->spec.job, job.completed});
    } catch (const core::Error& error) {
      observer_.warning(std::string("other runs cannot reuse job ") + job.plan->spec.job + ": " + error.what());
    }
  }

  void release_needing(std::size_t i) {
    for (const std::size_t needing : jobs_[i].needed_by) release(needing);
    release_awaiting(i);
  }

  void release_awaiting(std::size_t i) {
    for (const std::size_t awaiting : jobs_[i].awaited_by) release(awaiting);
  }

  void release(std::size_t i) {
    Job& job = jobs_[i];
    if (job.needs_left > 0 && --job.needs_left == 0 && job.state == JobState::waiting) ready_.insert(i);
  }

  void fail(std::size_t i, const std::string& reason) {
    const std::string name = jobs_[i].plan->spec.job;
    jobs_[i].state = JobState::failed;
    writer_.append({{"event", "job_failed"}, {"job", name}, {"reason", reason}});
    observer_.job_ended(name, JobState::failed, reason);
    std::vector<std::size_t> reached = {i};
    while (!reached.empty()) {
      const std::size_t blocking = reached.back();
      reached.pop_back();
      for (const std::size_t needing : jobs_[blocking].needed_by) {
        Job& job = jobs_[needing];
        if (job.state != JobState::waiting) continue;
        job.state = JobState::blocked;
        writer_.append({{"event", "job_blocked"}, {"job", job.plan->spec.job}, {"by", name}});
        observer_.job_ended(job.plan->spec.job, JobState::blocked, name);
        reached.push_back(needing);
      }
      release_awaiting(blocking);
    }
    if (options_.fail_fast && !stopping_) stop(StopMode::stop);
  }

  // Requests.

  void take_requests() {
    for (int asked = stop_.take(); asked > 0; --asked) {
      const StopMode mode = stopping_by_request_ ? StopMode::kill : StopMode::stop;
      writer_.append({{"event", "stop_requested"}, {"mode", journal::to_string(mode)}, {"runner", writer_.name()}});
      request(mode);
    }
    if (Clock::now() < next_look_) return;
    for (const fs::directory_entry& entry : fs::directory_iterator(run_.journal_dir())) {
      const std::string name = entry.path().stem().string();
      if (!name.starts_with("cancel-") || heard_.contains(name)) continue;
      for (const json& event : journal::read_journal_file(run_.journal_dir(), name).events) {
        heard_.insert(name);
        if (event.at("event") != "stop_requested" || event.at("runner") != writer_.name()) continue;
        request(event.at("mode") == "kill" ? StopMode::kill : StopMode::stop);
      }
    }
  }

  void request(StopMode mode) {
    stopping_by_request_ = true;
    stop(mode);
  }

  void stop(StopMode mode) {
    stopping_ = true;
    observer_.stopping(mode);
    if (reuse_) reuse_->cancel();
    for (auto& [unused, attempt] : running_) {
      if (mode == StopMode::kill) {
        attempt.kill();
      } else {
        attempt.ask_stop();
      }
    }
  }

  // Waiting.

  void wait() {
    std::vector<pollfd> events = {{stop_.fd(), POLLIN, 0}};
    if (reuse_) events.push_back({reuse_->event_fd(), POLLIN, 0});
    for (const auto& [unused, attempt] : running_) events.push_back({attempt.event_fd(), POLLIN, 0});
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(next_look_ - Clock::now()).count();
    if (::poll(events.data(), events.size(), static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000))) < 0 &&
        errno != EINTR) {
      core::fail_errno("cannot wait for events");
    }
  }

  void look() {
    const Clock::time_point now = Clock::now();
    if (now < next_look_) return;
    next_look_ = now + options_.tick;
    for (auto& [unused, attempt] : running_) attempt.look(observer_);
    observer_.tick();
  }

  static bool is_done(const Job& job) { return job.state == JobState::completed || job.state == JobState::reused; }

  Outcome outcome() const {
    bool all_done = true;
    for (const Job& job : jobs_) {
      if (job.state == JobState::failed) return Outcome::failed;
      all_done = all_done && is_done(job);
    }
    return all_done ? Outcome::completed : Outcome::stopped;
  }

  const plan::Plan& plan_;
  const journal::RunDirectory& run_;
  launch::Launcher& launcher_;
  const Options& options_;
  Observer& observer_;
  StopSignal& stop_;
  Capacity capacity_;
  journal::FinishedIndex index_;
  journal::Writer writer_;
  const journal::Holder& holder_;
  std::vector<Job> jobs_;  ///< in the order of the plan
  std::map<std::string, std::size_t> by_name_;
  std::set<std::size_t> ready_;
  std::map<std::size_t, Attempt> running_;
  std::optional<Reuse> reuse_;
  std::size_t reuse_job_ = 0;
  AttemptName reuse_name_;
  std::set<std::string> warned_;  ///< stages that are known to be oversubscribed
  std::set<std::string> heard_;   ///< cancel files that were read
  bool stopping_ = false;
  bool stopping_by_request_ = false;  ///< and not only because of fail_fast
  Clock::time_point next_look_ = Clock::now();
};

}  // namespace

void Observer::attempt_started(const AttemptName&, const stages::JobSpec&) {}
void Observer::metrics(const AttemptName&, const json&) {}
void Observer::attempt_ended(const AttemptName&, AttemptState, const std::string&, bool) {}
void Observer::job_ended(const std::string&, JobState, const std::string&) {}
void Observer::stopping(StopMode) {}
void Observer::warning(const std::string&) {}
void Observer::tick() {}

const char* to_string(Outcome outcome) {
  constexpr const char* kNames[] = {"completed", "failed", "stopped"};
  return kNames[static_cast<int>(outcome)];
}

std::vector<std::string> refusals(const plan::Plan& plan, const launch::Machine& machine) {
  std::vector<std::string> reasons;
  for (const plan::Job& job : plan.jobs) {
    const stages::Resources& resources = job.spec.resources;
    if (memory_of(resources) <= machine.memory_bytes) continue;
    reasons.push_back("job " + job.spec.job + " needs " + gibibytes(memory_of(resources)) + " of memory (" +
                      std::to_string(resources.ranks()) + " workers x " + gibibytes(memory_of_rank(resources)) +
                      "), and this machine has " + gibibytes(machine.memory_bytes) +
                      "; lower resources.host_memory, resources.device_memory or resources.workers_per_node");
  }
  return reasons;
}

Outcome run_plan(const plan::Plan& plan, const journal::RunDirectory& run, const journal::RunLock& lock,
                 launch::Launcher& launcher, const launch::Machine& machine, const Options& options, Observer& observer,
                 StopSignal& stop) {
  if (const std::vector<std::string> reasons = refusals(plan, machine); !reasons.empty())
    throw core::Error(reasons.front());
  return Scheduler(plan, run, lock, launcher, machine, options, observer, stop).run();
}

}  // namespace braise::schedule
