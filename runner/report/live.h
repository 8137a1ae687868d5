// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runner/schedule/scheduler.h"

namespace braise::report {

/// Shows a person how a run goes. On a terminal: what has happened scrolls by, and below it one line for each running
/// job (time, step, and what else it tells of itself) is redrawn in place. Elsewhere: plain lines, a running job's
/// every 10 s at most, and later every minute. A job that trained is summed up at its end: where it stands, its time by
/// phase, and whether it came up to what was expected.
class LiveDisplay : public schedule::Observer {
 public:
  using Clock = std::chrono::steady_clock;

  LiveDisplay(std::FILE* out, bool is_terminal, int terminal_columns, Clock::time_point (*now)() = Clock::now);
  ~LiveDisplay() override;

  void attempt_started(const journal::AttemptName& attempt, const stages::JobSpec& job) override;
  void metrics(const journal::AttemptName& attempt, const nlohmann::json& line) override;
  void attempt_ended(const journal::AttemptName& attempt, journal::AttemptState state, const std::string& reason,
                     bool again) override;
  void job_ended(const std::string& job, journal::JobState state, const std::string& reason) override;
  void stopping(journal::StopMode mode) override;
  void warning(const std::string& text) override;
  void tick() override;

  /// Jobs that failed, with why, in the order they did.
  const std::vector<std::pair<std::string, std::string>>& failures() const { return failures_; }

 private:
  struct Running;

  double seconds_since(Clock::time_point begin) const;
  void say(const std::string& line);
  void erase_lines();
  void draw_lines();

  std::FILE* out_;
  bool is_terminal_;
  std::size_t columns_;
  Clock::time_point (*now_)();
  std::size_t drawn_ = 0;                                    ///< live lines on the terminal now
  std::map<std::string, std::unique_ptr<Running>> running_;  ///< by job
  std::vector<std::pair<std::string, std::string>> failures_;
};

}  // namespace braise::report
