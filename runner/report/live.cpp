// SPDX-License-Identifier: Apache-2.0
#include "runner/report/live.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "runner/report/format.h"
#include "runner/report/training.h"
#include "stages/api/fault.h"
#include "stages/shared/telemetry/metrics_lines.h"

namespace braise::report {
namespace {

/// Between two plain lines of a job that has run for so long: a tenth of that, so that a log of a long job can be read.
std::chrono::steady_clock::duration plain_interval(std::chrono::steady_clock::duration age) {
  using std::chrono::seconds;
  return std::clamp<std::chrono::steady_clock::duration>(age / 10, seconds(10), seconds(60));
}

}  // namespace

struct LiveDisplay::Running {
  Clock::time_point started, told;
  nlohmann::json latest;  ///< what it last told (telemetry::take_in)

  std::string progress(std::size_t columns) const {
    return stages::printable(telemetry::progress_text(latest, columns), 300);
  }
};

LiveDisplay::LiveDisplay(std::FILE* out, bool is_terminal, int terminal_columns, Clock::time_point (*now)())
    : out_(out),
      is_terminal_(is_terminal),
      columns_(static_cast<std::size_t>(std::max(20, terminal_columns))),
      now_(now) {}

LiveDisplay::~LiveDisplay() {
  erase_lines();
}

double LiveDisplay::seconds_since(Clock::time_point begin) const {
  return std::chrono::duration<double>(now_() - begin).count();
}

void LiveDisplay::erase_lines() {
  if (drawn_ == 0) return;
  std::fprintf(out_, "\x1b[%zuA\x1b[J", drawn_);
  std::fflush(out_);
  drawn_ = 0;
}

void LiveDisplay::draw_lines() {
  if (!is_terminal_) return;
  std::string text;
  for (const auto& [job, running] : running_) {
    std::string line = "  " + job + "  " + duration_text(seconds_since(running->started)) + "  ";
    // A line that wraps could not be erased again; names and progress are ASCII.
    line += running->progress(columns_ - 1 - std::min(columns_ - 1, line.size()));
    line = line.substr(0, columns_ - 1);
    text += line.erase(line.find_last_not_of(' ') + 1) + "\n";
  }
  erase_lines();
  std::fputs(text.c_str(), out_);
  std::fflush(out_);
  drawn_ = running_.size();
}

void LiveDisplay::say(const std::string& line) {
  erase_lines();
  std::fprintf(out_, "%s\n", line.c_str());
  draw_lines();
}

void LiveDisplay::attempt_started(const journal::AttemptName& attempt, const stages::JobSpec& job) {
  const auto now = now_();
  running_[attempt.job] = std::make_unique<Running>(Running{now, now, {}});
  const int ranks = job.resources.ranks(), threads = job.resources.threads;
  say(attempt.job + ": started, " + job.kind + " with " + std::to_string(ranks) +
      (ranks == 1 ? " worker" : " workers") + " x " + std::to_string(threads) +
      (threads == 1 ? " thread" : " threads") +
      (attempt.number > 1 ? ", attempt " + std::to_string(attempt.number) : std::string()));
}

void LiveDisplay::metrics(const journal::AttemptName& attempt, const nlohmann::json& line) {
  const auto found = running_.find(attempt.job);
  if (found == running_.end()) return;
  Running& running = *found->second;
  telemetry::take_in(running.latest, line);
  const Clock::time_point now = now_();
  if (!is_terminal_ && now - running.told >= plain_interval(now - running.started)) {
    running.told = now;
    say(attempt.job + ": " + running.progress(std::numeric_limits<std::size_t>::max()));
  }
}

void LiveDisplay::attempt_ended(const journal::AttemptName& attempt, journal::AttemptState state,
                                const std::string& reason, bool again) {
  const auto found = running_.find(attempt.job);
  std::string time;
  nlohmann::json latest;
  if (found != running_.end()) {
    time = " after " + duration_text(seconds_since(found->second->started));
    latest = std::move(found->second->latest);
    running_.erase(found);
  }
  std::string line = attempt.job + ": " + journal::to_string(state) + time;
  if (!reason.empty()) line += ": " + stages::printable(reason, 1000);
  if (again) line += "; trying again";
  say(line);
  if (!is_training(latest)) return;
  say(attempt.job + ": " + stages::printable(standing_text(latest), 300));
  std::string table = phase_table(latest, "  ");
  if (!table.empty()) {
    table.pop_back();
    say(table);
  }
  const std::string expectation = expectation_text(latest);
  if (!expectation.empty()) say(attempt.job + ": " + stages::printable(expectation, 300));
}

void LiveDisplay::job_ended(const std::string& job, journal::JobState state, const std::string& reason) {
  // What ended with an attempt of its own has been told by that.
  if (state == journal::JobState::reused) say(job + ": not run, unchanged since " + reason);
  if (state == journal::JobState::blocked) say(job + ": blocked, it needs " + reason);
  if (state == journal::JobState::failed) failures_.emplace_back(job, reason);
}

void LiveDisplay::stopping(journal::StopMode mode) {
  say(mode == journal::StopMode::stop ? "stopping: running jobs checkpoint and stop; once more kills them" : "killing");
}

void LiveDisplay::warning(const std::string& text) {
  say("warning: " + stages::printable(text, 1000));
}

void LiveDisplay::tick() {
  draw_lines();
}

}  // namespace braise::report
