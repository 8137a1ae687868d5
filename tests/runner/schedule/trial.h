// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "runner/journal/replay.h"
#include "runner/plan/plan.h"
#include "runner/schedule/scheduler.h"
#include "tests/runner/schedule/test_launcher.h"
#include "tests/support/support.h"

namespace braise::schedule {

/// What a made-up job is like.
struct JobSketch {
  std::string name;
  std::vector<std::string> needs = {};
  int ranks = 1;
  int threads = 1;
  std::uint64_t memory_bytes = 1 << 20;
  int retries = 0;
  double time_limit_s = 0;
  double hang_timeout_s = 0;
  std::string kind = "tokenize";
};

/// A plan of made-up jobs, each with one output "out"; a job refers to the outputs of all it needs.
plan::Plan make_plan(const std::vector<JobSketch>& jobs);

launch::Machine make_machine(int cores, std::uint64_t memory_bytes = 1ull << 40);

/// Keeps all that it is told.
class Recorder : public Observer {
 public:
  void attempt_started(const journal::AttemptName& attempt, const stages::JobSpec& job) override;
  void metrics(const journal::AttemptName& attempt, const nlohmann::json& line) override;
  void attempt_ended(const journal::AttemptName& attempt, journal::AttemptState state, const std::string& reason,
                     bool again) override;
  void job_ended(const std::string& job, journal::JobState state, const std::string& reason) override;
  void stopping(journal::StopMode mode) override { stops.push_back(mode); }
  void warning(const std::string& text) override { warnings.push_back(text); }
  void tick() override;

  std::vector<std::string> lines;  ///< "a 1 started", "a 1 failed (disk full), again", "a: failed (disk full)"
  std::vector<std::string> warnings;
  std::vector<journal::StopMode> stops;
  std::map<std::string, int> metric_lines;
  std::function<void()> on_call;  ///< after each of the calls above
  std::function<void()> on_tick;
};

/// A runs folder, and the running of plans in it.
struct Trial {
  test::TemporaryFolder folder;
  TestLauncher launcher;
  Recorder recorder;
  StopSignal stop;
  Options options;
  launch::Machine machine = make_machine(4);

  Trial();
  journal::RunDirectory create() const;
  /// Runs what is left of the plan, and checks what holds after every run: clean journal, empty scratch, no broken
  /// rule.
  Outcome run(const plan::Plan& plan, const journal::RunDirectory& run);
  Outcome run_new(const plan::Plan& plan) { return run(plan, create()); }
};

std::string state_of(const journal::RunDirectory& run, const std::string& job);

}  // namespace braise::schedule
