// SPDX-License-Identifier: Apache-2.0
#include "runner/schedule/attempt.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "kernels/core/error.h"
#include "runner/journal/finished.h"
#include "stages/api/heartbeat.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/io/file.h"

namespace braise::schedule {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {

/// A gap between two looks, on the wall clock, that shows that the machine or this process was suspended or the clock
/// set: heartbeats are old then without anybody being hung.
constexpr std::int64_t kSuspendedUs = 5'000'000;

/// No time that a recipe gives is longer than this (30 years), in effect: clocks count nanoseconds in 64 bits.
constexpr double kForEverSeconds = 1e9;

std::chrono::nanoseconds seconds(double s) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<double>(std::min(s, kForEverSeconds)));
}

std::string format_seconds(double s) {
  std::string text = std::to_string(s);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text + " s";
}

/// The earliest of the files failure.<rank>.json: the others are mostly its consequences.
json first_failure(const fs::path& attempt_dir) {
  json first;
  fs::file_time_type earliest = fs::file_time_type::max();
  std::error_code error;
  for (fs::directory_iterator entry(attempt_dir, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with("failure.") || !name.ends_with(".json")) continue;
    std::error_code ignored;
    const fs::file_time_type written = entry->last_write_time(ignored);
    if (written >= earliest) continue;
    try {
      json failure = json::parse(io::read_file(entry->path()));
      journal::describe_failure(failure);  // throws where it lacks what it should have
      first = std::move(failure);
      earliest = written;
    } catch (const json::exception&) {
      continue;  // torn: its writer was killed
    } catch (const core::Error&) {
      continue;
    }
  }
  return first;
}

}  // namespace

Report read_report(const journal::RunDirectory& run, const journal::AttemptName& name) {
  Report report;
  json failure;
  for (const json& event : journal::read_journal_file(run.journal_dir(), name.writer()).events) {
    const std::string what = event.at("event");
    if (!event.contains("token") || event.at("token") != name.token || event.at("job") != name.job ||
        event.at("attempt") != name.number) {
      continue;
    }
    if (what == "worker_started") {
      report.started = true;
    } else if (what == "stage_stopped") {
      report.stopped = true;
    } else if (what == "stage_completed") {
      report.outputs.emplace();
      for (const auto& [output, files] : event.at("outputs").items()) {
        (*report.outputs)[output] = stages::Output::from_json(files);
      }
    } else if (what == "stage_failed" && failure.is_null()) {
      failure = event;
    }
  }
  if (failure.is_null()) failure = first_failure(run.path() / name.path());
  if (!failure.is_null()) {
    report.failure = journal::describe_failure(failure);
    report.failed_host = failure.value("host", "");
  }
  return report;
}

Verdict judge(const Evidence& evidence) {
  using journal::AttemptState;
  const Report& report = evidence.report;
  const std::string& how = evidence.ending.explanation;
  const bool clean = evidence.ending.exit_code == 0;
  if (report.outputs) {
    if (!evidence.bad_output.empty()) {
      return {AttemptState::failed, "the worker says it is done, but " + evidence.bad_output};
    }
    return {AttemptState::completed, clean ? "" : "its outputs are whole, although " + how};
  }
  if (!evidence.condemned.empty()) return {AttemptState::failed, evidence.condemned};
  if (evidence.asked_to_stop && evidence.ending.killed) return {AttemptState::stopped, "killed"};
  if (!report.failure.empty()) return {AttemptState::failed, report.failure};
  if (report.stopped) return {AttemptState::stopped, ""};
  if (clean) return {AttemptState::failed, how + ", but the worker has not reported that the stage is done"};
  return {AttemptState::failed, how.empty() ? "it ended for no known reason" : how};
}

std::string bad_output(const journal::RunDirectory& run, const plan::Job& job, const plan::Completed& completed) {
  for (const auto& [name, unused] : job.outputs) {
    const auto found = completed.outputs.find(name);
    if (found == completed.outputs.end() || found->second.files.empty()) return "its output '" + name + "' is missing";
  }
  const std::string missing = journal::missing_output(run.path() / completed.attempt_dir, completed.outputs);
  return missing.empty() ? "" : completed.attempt_dir + "/" + missing + " is not there with the size it should have";
}

Attempt::Attempt(const journal::RunDirectory& run, const stages::JobSpec& spec, journal::AttemptName name, Share share,
                 const Options& options)
    : run_(run), spec_(spec), options_(options), name_(std::move(name)), share_(std::move(share)) {}

void Attempt::launch(launch::Launcher& launcher, std::optional<std::int64_t> ends_us) {
  if (const double limit = spec_.resources.time_limit_s; limit > 0) {
    const std::int64_t own_us =
        io::utc_us() + std::chrono::duration_cast<std::chrono::microseconds>(seconds(limit)).count();
    own_limit_ = !ends_us || own_us < *ends_us;
    ends_us = own_limit_ ? own_us : *ends_us;
  }
  launch::Order order;
  order.name = run_.id() + "/" + name_.job + "/" + name_.folder();
  order.attempt_dir = run_.path() / name_.path();
  order.scratch_dir = run_.path() / name_.scratch();
  order.command = {options_.worker.string(), run_.job_file(name_.job).string(), "--attempt",
                   order.attempt_dir.string()};
  if (ends_us) order.command.insert(order.command.end(), {"--ends-at", io::format_utc(*ends_us)});
  order.command.insert(order.command.end(), options_.worker_options.begin(), options_.worker_options.end());
  order.ranks = spec_.resources.ranks();
  order.threads = spec_.resources.threads;
  if (!share_.oversubscribed) order.cores = share_.cores;
  io::create_directories_durably(order.attempt_dir);
  launched_ = launcher.start(order);
  started_ = pardoned_until_ = Clock::now();
  looked_us_ = io::utc_us();
}

void Attempt::ask_stop() {
  asked_to_stop_ = true;
  request_stop();
}

void Attempt::kill() {
  asked_to_stop_ = true;
  killed_ = true;
  launched_->kill();
}

void Attempt::request_stop() {
  if (killed_ || kill_at_) return;
  worker_up_ = worker_up_ || read_report(run_, name_).started;
  if (worker_up_) {
    kill_at_ = Clock::now() + options_.stop_grace;
    launched_->ask_stop();
  } else {
    killed_ = true;
    launched_->kill();
  }
}

void Attempt::condemn(std::string reason, bool at_once) {
  condemned_ = std::move(reason);
  if (at_once) {
    killed_ = true;
    launched_->kill();
  } else {
    request_stop();
  }
}

void Attempt::look(Observer& observer) {
  const Clock::time_point now = Clock::now();
  const std::int64_t now_us = io::utc_us();
  const std::int64_t gap_us = now_us - std::exchange(looked_us_, now_us);
  if (gap_us < 0 || gap_us > kSuspendedUs + std::chrono::microseconds(options_.tick).count()) {
    pardoned_until_ = now + std::chrono::duration_cast<Clock::duration>(seconds(spec_.resources.hang_timeout_s));
  }
  read_metrics(observer);
  if (killed_) return;
  if (kill_at_ && now > *kill_at_) {
    observer.warning("job " + name_.job + " has not stopped within " +
                     format_seconds(std::chrono::duration<double>(options_.stop_grace).count()) + " and is killed");
    killed_ = true;
    launched_->kill();
    return;
  }
  const double limit = spec_.resources.time_limit_s;
  if (limit > 0 && condemned_.empty() && !asked_to_stop_ && now - started_ > seconds(limit)) {
    condemn("it is over its time limit of " + format_seconds(limit), false);
  }
  if (spec_.resources.hang_timeout_s > 0 && !killed_ && now > pardoned_until_) watch_heartbeats(now);
}

void Attempt::watch_heartbeats(Clock::time_point now) {
  const double timeout = spec_.resources.hang_timeout_s;
  const std::vector<stages::Heartbeat> heartbeats = stages::read_heartbeats(run_.path() / name_.path());
  const std::int64_t now_us = io::utc_us();
  const std::vector<stages::Heartbeat> hung = stages::hung_ranks(
      heartbeats, now_us, std::chrono::duration_cast<std::chrono::microseconds>(seconds(timeout)).count());
  std::string who;
  for (const stages::Heartbeat& heartbeat : hung) {
    if (who.empty()) hung_host_ = heartbeat.host;
    who += (who.empty() ? "" : "; ") + stages::describe_hung(heartbeat, now_us);
  }
  if (who.empty() && now - started_ > seconds(timeout)) {
    std::set<int> silent;
    for (int rank = 0; rank < spec_.resources.ranks(); ++rank) silent.insert(rank);
    for (const stages::Heartbeat& heartbeat : heartbeats) silent.erase(heartbeat.rank);
    for (const int rank : silent) who += (who.empty() ? "rank " : ", ") + std::to_string(rank);
    if (!who.empty()) who += " has given no sign of life in " + format_seconds(timeout);
  }
  if (!who.empty()) condemn("hung: " + who, true);
}

void Attempt::read_metrics(Observer& observer) {
  const fs::path path = run_.path() / name_.path() / "metrics.jsonl";
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (error || size <= metrics_read_) return;
  std::ifstream file(path, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(metrics_read_));
  for (std::string line; std::getline(file, line) && !file.eof();) {  // what has no newline yet is still being written
    metrics_read_ += line.size() + 1;
    const json object = json::parse(line, nullptr, false);
    if (object.is_object()) observer.metrics(name_, object);
  }
}

std::optional<Evidence> Attempt::poll(Observer& observer) {
  std::optional<launch::Ending> ending = launched_->poll();
  if (!ending) return std::nullopt;
  read_metrics(observer);
  Evidence evidence;
  evidence.ending = std::move(*ending);
  evidence.report = read_report(run_, name_);
  evidence.asked_to_stop = asked_to_stop_;
  evidence.condemned = condemned_;
  evidence.suspect = evidence.report.failed_host.empty() ? hung_host_ : evidence.report.failed_host;
  if (own_limit_ && evidence.report.stopped && !asked_to_stop_ && condemned_.empty()) {
    evidence.condemned = "it has stopped, as no more fits its time limit of " +
                         format_seconds(spec_.resources.time_limit_s) + "; what it has is saved";
  }
  return evidence;
}

}  // namespace braise::schedule
