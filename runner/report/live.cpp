// SPDX-License-Identifier: Apache-2.0
#include "runner/report/live.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runner/report/format.h"
#include "runner/report/status.h"
#include "stages/api/fault.h"

namespace braise::report {
namespace {

constexpr std::chrono::seconds kPlainInterval{10};

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

LiveDisplay::LiveDisplay(std::FILE* out, bool is_terminal, int terminal_columns)
    : out_(out), is_terminal_(is_terminal), columns_(static_cast<std::size_t>(std::max(20, terminal_columns))) {}

LiveDisplay::~LiveDisplay() {
  erase_lines();
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
    std::string line = "  " + job + "  " + duration_text(seconds_since(running.started));
    if (!running.progress.empty()) line += "  " + running.progress;
    // A line that wraps could not be erased again; names and progress are ASCII.
    text += line.substr(0, columns_ - 1) + "\n";
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
  const auto now = Clock::now();
  running_[attempt.job] = {now, now, ""};
  const int ranks = job.resources.ranks(), threads = job.resources.threads;
  say(attempt.job + ": started, " + job.kind + " with " + std::to_string(ranks) +
      (ranks == 1 ? " worker" : " workers") + " x " + std::to_string(threads) +
      (threads == 1 ? " thread" : " threads") +
      (attempt.number > 1 ? ", attempt " + std::to_string(attempt.number) : std::string()));
}

void LiveDisplay::metrics(const journal::AttemptName& attempt, const nlohmann::json& line) {
  const auto found = running_.find(attempt.job);
  if (found == running_.end()) return;
  found->second.progress = stages::printable(progress_text(line), 200);
  if (!is_terminal_ && Clock::now() - found->second.told >= kPlainInterval) {
    found->second.told = Clock::now();
    say(attempt.job + ": " + found->second.progress);
  }
}

void LiveDisplay::attempt_ended(const journal::AttemptName& attempt, journal::AttemptState state,
                                const std::string& reason, bool again) {
  const auto found = running_.find(attempt.job);
  const std::string time =
      found == running_.end() ? "" : " after " + duration_text(seconds_since(found->second.started));
  if (found != running_.end()) running_.erase(found);
  std::string line = attempt.job + ": " + journal::to_string(state) + time;
  if (!reason.empty()) line += ": " + stages::printable(reason, 1000);
  if (again) line += "; trying again";
  say(line);
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
