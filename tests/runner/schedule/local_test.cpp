// SPDX-License-Identifier: Apache-2.0
// The scheduler with mpirun and real workers.
#include "runner/launch/local.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <thread>

#include "runner/launch/processes.h"
#include "runner/schedule/attempt.h"
#include "stages/api/heartbeat.h"
#include "stages/registry.h"
#include "stages/shared/io/file.h"
#include "tests/runner/schedule/trial.h"

namespace braise::schedule {
namespace fs = std::filesystem;
using Catch::Matchers::Contains;
using namespace std::chrono_literals;
namespace {

/// Self-tests of the machine, each as short or long as `duration` says (in seconds, for each of six measurements).
plan::Plan checks(const std::vector<std::string>& names, double duration, int ranks = 1) {
  plan::Plan plan;
  for (const std::string& name : names) {
    plan::Plan one = make_plan({{.name = name, .ranks = ranks, .memory_bytes = 64 << 20, .kind = "check"}});
    plan::Job& job = one.jobs.front();
    const stages::StageDescriptor* kind = stages::find_kind("check");
    job.spec.kind_version = kind->version;
    job.spec.config = {{"duration", duration}, {"message_size", 4096}, {"memory_size", 1 << 20}, {"gemm_size", 64},
                       {"scratch_size", 4096}, {"free_memory", 0},     {"free_disk", 0}};
    job.outputs.clear();
    for (const stages::OutputDeclaration& output : kind->outputs) job.outputs[output.name] = output.path;
    plan.jobs.push_back(job);
  }
  return plan;
}

struct LocalTrial {
  test::TemporaryFolder folder;
  journal::RunDirectory directory;
  launch::LocalLauncher launcher;
  launch::Machine machine = launch::this_machine();
  Recorder recorder;
  StopSignal stop;
  Options options;

  explicit LocalTrial(const std::string& below = "runs")
      : directory(journal::RunDirectory::create(folder.path() / below, "trial", {"", "", "{}", "{}"}).run) {
    options.worker = test::program("braise-worker");
    options.tick = 100ms;
  }
  Outcome run(const plan::Plan& plan) {
    const journal::RunLock lock = directory.lock();
    return run_plan(plan, directory, lock, launcher, machine, options, recorder, stop);
  }
  /// Why jobs failed, for a test's message.
  std::string reasons() const {
    std::string text;
    for (const std::string& line : recorder.lines) text += line + "\n";
    return text;
  }
  std::vector<pid_t> processes(const std::string& job) const {
    const journal::RunState state = journal::replay(directory);
    const journal::JobRecord* record = state.find(job);
    if (record == nullptr || record->attempts.empty()) return {};
    return launch::marked_processes(directory.id() + "/" + job + "/" + record->attempts.back().name.folder());
  }
};

std::set<std::string> shared_memory() {
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator("/dev/shm")) {
    const std::string name = entry.path().filename();
    if (name.starts_with("vader_segment")) names.insert(name);
  }
  return names;
}

/// A job's first attempt, once its workers have started.
std::optional<journal::AttemptName> first_attempt(const journal::RunDirectory& run, const std::string& job) {
  const journal::RunState state = journal::replay(run);
  const journal::JobRecord* record = state.find(job);
  if (record == nullptr || record->attempts.empty()) return std::nullopt;
  const journal::AttemptName& name = record->attempts[0].name;
  return read_report(run, name).started ? std::optional(name) : std::nullopt;
}

TEST_CASE("real workers run side by side, each on cores of its own") {
  LocalTrial trial;
  const plan::Plan plan = checks({"one", "two"}, 0.01);
  const Outcome outcome = trial.run(plan);
  INFO(trial.reasons());
  REQUIRE(outcome == Outcome::completed);
  const journal::RunState state = journal::replay(trial.directory);
  CHECK(state.warnings == std::vector<std::string>());
  CHECK(first_attempt(trial.directory, "one"));
  CHECK(fs::is_empty(trial.directory.scratch_dir()));
  if (trial.machine.cores.size() > 1) {
    CHECK(state.find("one")->attempts[0].cores != state.find("two")->attempts[0].cores);
  }
}

TEST_CASE("real workers run deep down under an odd name") {
  LocalTrial trial("a b,c;'\"$x%s/" + std::string(200, 'x') + "/" + std::string(200, 'y') + "/runs");
  const Outcome outcome = trial.run(checks({"one"}, 0.01, 2));
  INFO(trial.reasons());
  CHECK(outcome == Outcome::completed);
}

TEST_CASE("a real worker stops as asked") {
  LocalTrial trial;
  bool asked = false;  // a second time would be to kill
  trial.recorder.on_tick = [&] {
    if (asked) return;
    asked = first_attempt(trial.directory, "long").has_value();
    if (asked) trial.stop.ask();
  };
  const Outcome outcome = trial.run(checks({"long"}, 600, 2));
  INFO(trial.reasons());
  CHECK(outcome == Outcome::stopped);
  CHECK(journal::replay(trial.directory).find("long")->attempts[0].exit_code == 0);
}

TEST_CASE("a worker that is stopped dead is found hung, named and ended") {
  LocalTrial trial;
  plan::Plan plan = checks({"long"}, 600, 2);
  plan.jobs[0].spec.resources.hang_timeout_s = 2.5;
  pid_t victim = 0;
  trial.recorder.on_tick = [&] {
    if (victim != 0) return;
    const std::optional<journal::AttemptName> attempt = first_attempt(trial.directory, "long");
    if (!attempt) return;
    victim = static_cast<pid_t>(stages::read_heartbeats(trial.directory.path() / attempt->path()).at(1).pid);
    ::kill(victim, SIGSTOP);
  };
  CHECK(trial.run(plan) == Outcome::failed);
  CHECK_THAT(journal::replay(trial.directory).find("long")->reason,
             Contains("hung: rank 1 (host ") && Contains(", pid " + std::to_string(victim) + ") has not moved"));
  CHECK(trial.processes("long").empty());
}

TEST_CASE("nothing outlives a runner that is killed, and the next command sweeps up") {
  LocalTrial trial;
  const std::set<std::string> before = shared_memory();
  const plan::Plan plan = checks({"long"}, 600, 2);
  const pid_t runner = ::fork();
  if (runner == 0) {
    trial.run(plan);
    ::_exit(0);
  }
  const auto wait_until = [](const auto& condition, std::chrono::seconds limit) {
    const auto give_up = std::chrono::steady_clock::now() + limit;
    while (!condition() && std::chrono::steady_clock::now() < give_up) std::this_thread::sleep_for(20ms);
    return condition();
  };
  REQUIRE(wait_until([&] { return first_attempt(trial.directory, "long").has_value(); }, 20s));
  REQUIRE(trial.processes("long").size() == 3);
  REQUIRE_FALSE(fs::is_empty(trial.directory.scratch_dir()));
  REQUIRE(trial.directory.holder());
  ::kill(runner, SIGKILL);
  ::waitpid(runner, nullptr, 0);
  CHECK(wait_until([&] { return trial.processes("long").empty(); }, 3s));
  CHECK_FALSE(trial.directory.holder());
  CHECK_FALSE(fs::is_empty(trial.directory.scratch_dir()));
  journal::sweep(trial.directory.runs_dir());
  CHECK(fs::is_empty(trial.directory.scratch_dir()));
  CHECK(shared_memory() == before);
  // And the run goes on.
  const Outcome outcome = trial.run(checks({"long"}, 0.01, 2));
  INFO(trial.reasons());
  CHECK(outcome == Outcome::completed);
}

}  // namespace
}  // namespace braise::schedule
