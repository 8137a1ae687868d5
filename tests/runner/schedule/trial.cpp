// SPDX-License-Identifier: Apache-2.0
#include "tests/runner/schedule/trial.h"

#include <catch2/catch.hpp>

namespace braise::schedule {
namespace fs = std::filesystem;

plan::Plan make_plan(const std::vector<JobSketch>& jobs) {
  plan::Plan plan;
  plan.recipe_name = "trial";
  for (const JobSketch& sketch : jobs) {
    plan::Job job;
    job.spec.job = job.spec.stage = sketch.name;
    job.spec.kind = sketch.kind;
    job.spec.resources.nodes = 1;
    job.spec.resources.workers_per_node = sketch.ranks;
    job.spec.resources.threads = sketch.threads;
    job.spec.resources.device = "cpu";
    job.spec.resources.host_memory_bytes = sketch.memory_bytes;
    job.spec.resources.retries = sketch.retries;
    job.spec.resources.time_limit_s = sketch.time_limit_s;
    job.spec.resources.hang_timeout_s = sketch.hang_timeout_s;
    job.spec.config = {{"name", sketch.name}, {"input", nlohmann::json::array()}};
    job.needs = sketch.needs;
    for (const std::string& needed : sketch.needs) {
      const std::string text = "${stages." + needed + ".out}";
      plan::Link link;
      link.pointer = "/input/" + std::to_string(job.links.size());
      link.text = text;
      link.job = needed;
      link.output = "out";
      job.spec.config["input"].push_back(text);
      job.links.push_back(link);
    }
    job.parameters = nlohmann::json::object();
    job.outputs = {{"out", "artifacts/out"}};
    plan.jobs.push_back(std::move(job));
  }
  return plan;
}

launch::Machine make_machine(int cores, std::uint64_t memory_bytes) {
  launch::Machine machine;
  for (int i = 0; i < cores; ++i) machine.cores.push_back({i, {i}, {i}});
  machine.memory_bytes = memory_bytes;
  return machine;
}

void Recorder::attempt_started(const journal::AttemptName& attempt, const stages::JobSpec&) {
  lines.push_back(attempt.job + " " + std::to_string(attempt.number) + " started");
  if (on_call) on_call();
}

void Recorder::metrics(const journal::AttemptName& attempt, const nlohmann::json&) {
  ++metric_lines[attempt.job];
}

void Recorder::attempt_ended(const journal::AttemptName& attempt, journal::AttemptState state,
                             const std::string& reason, bool again) {
  lines.push_back(attempt.job + " " + std::to_string(attempt.number) + " " + journal::to_string(state) +
                  (reason.empty() ? "" : " (" + reason + ")") + (again ? ", again" : ""));
  if (on_call) on_call();
}

void Recorder::job_ended(const std::string& job, journal::JobState state, const std::string& reason) {
  lines.push_back(job + ": " + journal::to_string(state) + (reason.empty() ? "" : " (" + reason + ")"));
  if (on_call) on_call();
}

void Recorder::tick() {
  if (on_tick) on_tick();
}

Trial::Trial() {
  options.worker = "/bin/true";
  options.command = {"braise", "run"};
  options.tick = std::chrono::milliseconds(5);
}

journal::RunDirectory Trial::create() const {
  return journal::RunDirectory::create(folder.path(), "trial", {"", "", "{}", "{}"}).run;
}

Outcome Trial::run(const plan::Plan& plan, const journal::RunDirectory& run) {
  const journal::RunLock lock = run.lock();
  const Outcome outcome = run_plan(plan, run, lock, launcher, machine, options, recorder, stop);
  const journal::RunState state = journal::replay(run);
  CHECK(state.warnings == std::vector<std::string>());
  CHECK(launcher.faults == std::vector<std::string>());
  CHECK(launcher.running.empty());
  CHECK(fs::is_empty(run.scratch_dir()));
  REQUIRE_FALSE(state.sessions.empty());
  CHECK(state.sessions.back().outcome == to_string(outcome));
  for (const auto& [name, job] : state.jobs) CHECK(job.state != journal::JobState::running);
  return outcome;
}

std::string state_of(const journal::RunDirectory& run, const std::string& job) {
  return journal::to_string(journal::replay(run).state_of(job));
}

}  // namespace braise::schedule
