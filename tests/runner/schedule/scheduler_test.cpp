// SPDX-License-Identifier: Apache-2.0
#include "runner/schedule/scheduler.h"

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <random>

#include "kernels/core/error.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/io/file.h"
#include "tests/runner/schedule/trial.h"

namespace braise::schedule {
namespace fs = std::filesystem;
using Catch::Matchers::Contains;
using namespace std::chrono_literals;
using End = Part::End;
using Lines = std::vector<std::string>;
namespace {

std::size_t position(const Lines& lines, const std::string& line) {
  return static_cast<std::size_t>(std::find(lines.begin(), lines.end(), line) - lines.begin());
}

bool has(const Lines& lines, const std::string& line) {
  return position(lines, line) < lines.size();
}

/// A script by job; jobs that are not named complete.
auto script(std::map<std::string, Part> parts) {
  return [parts = std::move(parts)](const std::string& job, int) {
    const auto part = parts.find(job);
    return part == parts.end() ? Part() : part->second;
  };
}

const std::vector<JobSketch> kDiamond = {{"a", {}}, {"b", {"a"}}, {"c", {"a"}}, {"d", {"b", "c"}}};

TEST_CASE("a diamond runs in order, its middle side by side, each job bound to what it needs") {
  Trial trial;
  trial.launcher.script = script({{"b", {.after = 50ms}}, {"c", {.after = 50ms}}});
  const journal::RunDirectory run = trial.create();
  CHECK(trial.run(make_plan(kDiamond), run) == Outcome::completed);
  const Lines& lines = trial.recorder.lines;
  CHECK(position(lines, "a: completed") < position(lines, "b 1 started"));
  CHECK(position(lines, "b 1 started") < position(lines, "b: completed"));
  CHECK(position(lines, "c 1 started") < position(lines, "b: completed"));
  CHECK(position(lines, "d 1 started") > position(lines, "c: completed"));
  CHECK(trial.launcher.most_at_once == 2);
  const journal::RunState state = journal::replay(run);
  const stages::JobSpec spec = stages::read_job(run.job_file("b"));
  CHECK(spec.config.at("input").at(0) ==
        "${run.dir}/" + state.find("a")->completion->completed.attempt_dir + "/artifacts/out");
  CHECK(spec.run_id == run.id());
  CHECK(spec.fingerprint == state.find("b")->completion->fingerprint);
  CHECK(trial.recorder.warnings.empty());
}

TEST_CASE("a failed job stops those that need it and nothing else") {
  Trial trial;
  trial.launcher.script = script({{"b", {.end = End::fails}}});
  const journal::RunDirectory run = trial.create();
  std::vector<JobSketch> jobs = kDiamond;
  jobs.push_back({"e", {"d"}});
  CHECK(trial.run(make_plan(jobs), run) == Outcome::failed);
  const Lines& lines = trial.recorder.lines;
  CHECK(has(lines, "b: failed (rank 1 on host here: x.cpp:3: disk full)"));
  CHECK(has(lines, "d: blocked (b)"));
  CHECK(has(lines, "e: blocked (b)"));
  CHECK(has(lines, "c: completed"));
  CHECK(state_of(run, "d") == "blocked");
  CHECK(journal::replay(run).find("e")->by == "b");
}

TEST_CASE("a job that two failed jobs need is blocked once") {
  Trial trial;
  trial.launcher.script = script({{"b", {.end = End::fails}}, {"c", {.end = End::dies}}});
  CHECK(trial.run_new(make_plan(kDiamond)) == Outcome::failed);
  CHECK(std::count_if(trial.recorder.lines.begin(), trial.recorder.lines.end(),
                      [](const std::string& line) { return line.starts_with("d: blocked"); }) == 1);
}

TEST_CASE("with fail_fast, the first failed job stops all others") {
  Trial trial;
  trial.options.fail_fast = true;
  trial.launcher.script = script({{"bad", {.end = End::fails, .after = 20ms}}, {"long", {.after = 1h}}});
  trial.machine = make_machine(2);
  const journal::RunDirectory run = trial.create();
  CHECK(trial.run(make_plan({{"bad"}, {"long"}, {"never"}}), run) == Outcome::failed);
  CHECK(has(trial.recorder.lines, "long: stopped"));
  CHECK(trial.launcher.asked_to_stop == std::set<std::string>{"long"});
  CHECK(state_of(run, "never") == "waiting");
}

TEST_CASE("retries are made as often as the recipe says, each in a folder of its own") {
  Trial trial;
  trial.launcher.script = [](const std::string&, int attempt) {
    return Part{.end = attempt < 3 ? End::dies : End::completes};
  };
  const journal::RunDirectory run = trial.create();
  SECTION("enough") {
    CHECK(trial.run(make_plan({{.name = "a", .retries = 2}}), run) == Outcome::completed);
    CHECK(has(trial.recorder.lines, "a 1 failed (it was ended by signal 11), again"));
    const journal::JobRecord job = *journal::replay(run).find("a");
    REQUIRE(job.attempts.size() == 3);
    CHECK(job.attempts[0].signal == 11);
    CHECK(job.attempts[2].state == journal::AttemptState::completed);
    CHECK(job.completion->completed.attempt_dir == job.attempts[2].name.path());
    CHECK(std::distance(fs::directory_iterator(run.job_dir("a") / "attempts"), fs::directory_iterator()) == 3);
  }
  SECTION("one too few; a resume counts afresh") {
    const plan::Plan plan = make_plan({{.name = "a", .retries = 1}});
    CHECK(trial.run(plan, run) == Outcome::failed);
    CHECK(trial.launcher.attempts("a") == 2);
    CHECK(state_of(run, "a") == "failed");
    CHECK(trial.run(plan, run) == Outcome::completed);
    CHECK(trial.launcher.attempts("a") == 3);
  }
}

TEST_CASE("a worker that lies about its success has failed") {
  Trial trial;
  const std::vector<std::pair<End, std::string>> lies = {
      {End::lies_silently, "it ended with exit status 0, but the worker has not reported that the stage is done"},
      {End::lies_about_file, "artifacts/out is not there with the size it should have"},
      {End::lies_about_size, "artifacts/out is not there with the size it should have"},
      {End::forgets_output, "the worker says it is done, but its output 'out' is missing"}};
  for (const auto& [end, reason] : lies) {
    trial.launcher.script = script({{"a", {.end = end}}});
    const journal::RunDirectory run = trial.create();
    CHECK(trial.run(make_plan({{"a"}, {"b", {"a"}}}), run) == Outcome::failed);
    const journal::RunState state = journal::replay(run);
    CHECK_THAT(state.find("a")->reason, Contains(reason));
    CHECK(state.state_of("b") == journal::JobState::blocked);
  }
}

TEST_CASE("a worker that dies when all is done has completed, with a warning") {
  Trial trial;
  trial.launcher.script = script({{"a", {.end = End::crashes_late}}});
  CHECK(trial.run_new(make_plan({{"a"}})) == Outcome::completed);
  REQUIRE(trial.recorder.warnings.size() == 1);
  CHECK_THAT(trial.recorder.warnings[0], Contains("its outputs are whole, although it ended with exit status 1"));
}

TEST_CASE("a job that cannot be launched has failed") {
  Trial trial;
  trial.launcher.script = script({{"a", {.end = End::cannot_launch}}});
  const journal::RunDirectory run = trial.create();
  CHECK(trial.run(make_plan({{.name = "a", .retries = 1}, {"b"}}), run) == Outcome::failed);
  CHECK(trial.launcher.attempts("a") == 2);
  CHECK_THAT(journal::replay(run).find("a")->reason, Contains("cannot run mpirun"));
  CHECK(state_of(run, "b") == "completed");
}

TEST_CASE("a hung job is ended, and who hung is named") {
  Trial trial;
  const journal::RunDirectory run = trial.create();
  std::string reason;
  SECTION("a rank that does nothing") {
    trial.launcher.script = script({{"a", {.end = End::hangs}}});
    reason = "hung: rank 0 (host here, pid 4711) has not moved";
  }
  SECTION("a rank that is gone") {
    trial.launcher.script = script({{"a", {.end = End::goes_silent}}});
    reason = "last operation: write shard 3";
  }
  SECTION("no rank ever appears") {
    trial.launcher.script = script({{"a", {.end = End::never_starts}}});
    reason = "hung: rank 0, 1 has given no sign of life in 0.1 s";
  }
  CHECK(trial.run(make_plan({{.name = "a", .ranks = 2, .hang_timeout_s = 0.1}, {"b"}}), run) == Outcome::failed);
  CHECK_THAT(journal::replay(run).find("a")->reason, Contains(reason));
  CHECK(trial.launcher.killed == std::set<std::string>{"a"});
  CHECK(state_of(run, "b") == "completed");
}

TEST_CASE("a hang timeout of 0 means never") {
  Trial trial;
  trial.launcher.script = script({{"a", {.after = 300ms}}});
  CHECK(trial.run_new(make_plan({{.name = "a", .hang_timeout_s = 0}})) == Outcome::completed);
}

TEST_CASE("a job over its time is asked to stop, then killed") {
  Trial trial;
  trial.options.stop_grace = 50ms;
  const journal::RunDirectory run = trial.create();
  const plan::Plan plan = make_plan({{.name = "a", .time_limit_s = 0.1}, {"b", {"a"}}});
  SECTION("it stops") {
    trial.launcher.script = script({{"a", {.after = 1h}}});
    CHECK(trial.run(plan, run) == Outcome::failed);
    CHECK(trial.launcher.killed.empty());
  }
  SECTION("it does not stop") {
    trial.launcher.script = script({{"a", {.after = 1h, .heeds_stop = false}}});
    CHECK(trial.run(plan, run) == Outcome::failed);
    CHECK(trial.launcher.killed == std::set<std::string>{"a"});
    REQUIRE(trial.recorder.warnings.size() == 1);
    CHECK_THAT(trial.recorder.warnings[0], Contains("job a has not stopped within 0.05 s and is killed"));
  }
  SECTION("it is not even up") {
    trial.launcher.script = script({{"a", {.end = End::never_starts}}});
    CHECK(trial.run(plan, run) == Outcome::failed);
  }
  CHECK(journal::replay(run).find("a")->reason == "it is over its time limit of 0.1 s");
  CHECK(trial.launcher.asked_to_stop.size() <= 1);
}

TEST_CASE("a job that stops by itself before its time limit has failed, and goes on as often as it may") {
  Trial trial;
  trial.launcher.script = [](const std::string&, int attempt) { return Part{.stops_by_itself = attempt == 1}; };
  const auto option = [&] { return std::ranges::find(trial.launcher.last_command, "--ends-at"); };
  SECTION("with a retry") {
    const std::int64_t before_us = io::utc_us();
    CHECK(trial.run_new(make_plan({{.name = "a", .retries = 1, .time_limit_s = 3600}})) == Outcome::completed);
    CHECK(trial.recorder.lines[1] ==
          "a 1 failed (it has stopped, as no more fits its time limit of 3600 s; what it has is saved), again");
    REQUIRE(option() != trial.launcher.last_command.end());
    const std::int64_t ends_us = io::parse_utc(*std::next(option()));
    CHECK(ends_us >= before_us + 3600'000'000);
    CHECK(ends_us <= io::utc_us() + 3600'000'000);
  }
  SECTION("without a limit it has only stopped") {
    CHECK(trial.run_new(make_plan({{.name = "a", .retries = 1}})) == Outcome::stopped);
    CHECK(option() == trial.launcher.last_command.end());
  }
}

TEST_CASE("a job that completes just over its time has completed") {
  Trial trial;
  trial.launcher.script = script({{"a", {.after = 150ms, .heeds_stop = false}}});
  CHECK(trial.run_new(make_plan({{.name = "a", .time_limit_s = 0.1}})) == Outcome::completed);
}

TEST_CASE("asked once, running jobs stop and nothing new starts; a resume goes on from there") {
  Trial trial;
  trial.launcher.script = [](const std::string& job, int attempt) {
    return Part{.after = job == "long" && attempt == 1 ? 1h : 0ms, .stops_after = 20ms};
  };
  const plan::Plan plan = make_plan({{"short"}, {"long"}, {"later", {"long"}}});
  const journal::RunDirectory run = trial.create();
  int ticks = 0;
  SECTION("by a signal") {
    trial.recorder.on_tick = [&] {
      if (++ticks == 10) trial.stop.ask();
    };
  }
  SECTION("by cancel") {
    trial.recorder.on_tick = [&] {
      if (++ticks == 10) REQUIRE(journal::request_stop(run, journal::StopMode::stop));
    };
  }
  CHECK(trial.run(plan, run) == Outcome::stopped);
  CHECK(trial.recorder.stops == std::vector{journal::StopMode::stop});
  CHECK(trial.launcher.asked_to_stop == std::set<std::string>{"long"});
  CHECK(trial.launcher.killed.empty());
  CHECK(state_of(run, "short") == "completed");
  CHECK(state_of(run, "long") == "stopped");
  CHECK(state_of(run, "later") == "waiting");
  CHECK(journal::replay(run).sessions.back().stop_requested == journal::StopMode::stop);

  trial.recorder = {};
  CHECK(trial.run(plan, run) == Outcome::completed);  // the old request is not heeded again
  CHECK(trial.launcher.attempts("short") == 1);
  CHECK(trial.launcher.attempts("long") == 2);
}

TEST_CASE("asked twice, or to kill, running jobs are killed") {
  Trial trial;
  trial.launcher.script = script({{"long", {.after = 1h, .heeds_stop = false}}});
  const journal::RunDirectory run = trial.create();
  int ticks = 0;
  SECTION("by signals") {
    trial.recorder.on_tick = [&] {
      if (++ticks % 5 == 0 && ticks <= 10) trial.stop.ask();
    };
  }
  SECTION("by cancel") {
    trial.recorder.on_tick = [&] {
      if (++ticks == 5) REQUIRE(journal::request_stop(run, journal::StopMode::kill));
    };
  }
  CHECK(trial.run(make_plan({{"long"}}), run) == Outcome::stopped);
  CHECK(trial.launcher.killed == std::set<std::string>{"long"});
  CHECK(state_of(run, "long") == "stopped");
}

TEST_CASE("a stop before the worker is up kills it: a signal would too, and nothing is lost") {
  Trial trial;
  trial.launcher.script = script({{"a", {.end = End::never_starts}}});
  trial.recorder.on_tick = [&] {
    if (!trial.launcher.started.empty() && trial.recorder.stops.empty()) trial.stop.ask();
  };
  const journal::RunDirectory run = trial.create();
  CHECK(trial.run(make_plan({{"a"}}), run) == Outcome::stopped);
  CHECK(state_of(run, "a") == "stopped");
}

TEST_CASE("a job that fails while it stops has failed") {
  Trial trial;
  trial.launcher.script = script({{"a", {.end = End::fails, .after = 100ms, .heeds_stop = false}}});
  trial.recorder.on_tick = [&] {
    if (trial.recorder.stops.empty()) trial.stop.ask();
  };
  CHECK(trial.run_new(make_plan({{.name = "a", .retries = 3}})) == Outcome::failed);
  CHECK(trial.launcher.attempts("a") == 1);  // no retry once a stop was asked for
}

TEST_CASE("a job that someone else made stop leaves the run stopped") {
  Trial trial;
  trial.launcher.script = script({{"a", {.stops_by_itself = true}}});
  const journal::RunDirectory run = trial.create();
  CHECK(trial.run(make_plan({{"a"}, {"b", {"a"}}, {"c"}}), run) == Outcome::stopped);
  CHECK(state_of(run, "c") == "completed");
  CHECK(state_of(run, "b") == "waiting");
}

TEST_CASE("jobs side by side never hold more cores or memory than there are") {
  Trial trial;
  std::mt19937 random(7);
  std::vector<JobSketch> jobs;
  std::map<std::string, JobSketch> by_name;
  for (int i = 0; i < 200; ++i) {
    JobSketch job{.name = "job" + std::to_string(i)};
    job.ranks = 1 + static_cast<int>(random() % 4);
    job.threads = 1 + static_cast<int>(random() % 2);
    job.memory_bytes = (1 + random() % 5) << 20;
    if (i > 5 && random() % 2 == 0) job.needs = {"job" + std::to_string(random() % static_cast<unsigned>(i))};
    by_name[job.name] = job;
    jobs.push_back(job);
  }
  trial.machine = make_machine(8, 20 << 20);
  std::size_t most_cores = 0;
  trial.launcher.script = [&](const std::string&, int) {
    return Part{.after = std::chrono::milliseconds(random() % 3)};
  };
  trial.launcher.on_change = [&] {
    std::uint64_t memory = 0;
    std::size_t cores = 0;
    for (const std::string& job : trial.launcher.running) {
      memory += static_cast<std::uint64_t>(by_name[job].ranks) * by_name[job].memory_bytes;
      cores += static_cast<std::size_t>(by_name[job].ranks * by_name[job].threads);
    }
    if (memory > trial.machine.memory_bytes) trial.launcher.faults.push_back("too much memory");
    if (cores > 8 || cores != trial.launcher.busy_cores.size()) trial.launcher.faults.push_back("too many cores");
    most_cores = std::max(most_cores, cores);
  };
  CHECK(trial.run_new(make_plan(jobs)) == Outcome::completed);
  CHECK(most_cores >= 7);
  CHECK(trial.launcher.most_at_once > 1);
}

TEST_CASE("more workers x threads than cores run alone, unbound, with a warning") {
  Trial trial;
  trial.launcher.script = script({{"a", {.after = 20ms}}, {"big", {.after = 20ms}}});
  const journal::RunDirectory run = trial.create();
  CHECK(trial.run(make_plan({{.name = "a"}, {.name = "big", .ranks = 4, .threads = 2}, {.name = "c"}}), run) ==
        Outcome::completed);
  REQUIRE(trial.recorder.warnings.size() == 1);
  CHECK(trial.recorder.warnings[0] ==
        "stage big asks for 4 workers x 2 threads on 4 cores: it runs oversubscribed, unbound and alone");
  CHECK(journal::replay(run).find("big")->attempts[0].cores.empty());
  CHECK(journal::replay(run).find("a")->attempts[0].cores == std::vector<int>{0});
  const Lines& lines = trial.recorder.lines;
  CHECK(position(lines, "big 1 started") > position(lines, "a: completed"));
  CHECK(position(lines, "big 1 started") > position(lines, "c: completed"));  // c fits beside a, and so passes big
}

TEST_CASE("a big job is not starved by small ones") {
  Trial trial;
  std::vector<JobSketch> jobs = {{"first"}, {.name = "big", .ranks = 4}};
  for (int i = 0; i < 100; ++i) jobs.push_back({"small" + std::to_string(i)});
  std::mt19937 random(3);
  trial.launcher.script = [&](const std::string&, int) {
    return Part{.after = std::chrono::milliseconds(1 + random() % 4)};
  };
  CHECK(trial.run_new(make_plan(jobs)) == Outcome::completed);
  CHECK(position(trial.launcher.started, "big") <= 10);
}

TEST_CASE("a job with more memory than the machine is refused before anything starts") {
  Trial trial;
  trial.machine = make_machine(2, 1ull << 30);
  const plan::Plan plan = make_plan({{"a"}, {.name = "big", .ranks = 2, .memory_bytes = 1ull << 30}});
  const std::vector<std::string> reasons = refusals(plan, trial.machine);
  REQUIRE(reasons.size() == 1);
  CHECK(reasons[0] ==
        "job big needs 2.0 GiB of memory (2 workers x 1.0 GiB), and this machine has 1.0 GiB; lower "
        "resources.host_memory, resources.device_memory or resources.workers_per_node");
  const journal::RunDirectory run = trial.create();
  const journal::RunLock lock = run.lock();
  CHECK_THROWS_WITH(run_plan(plan, run, lock, trial.launcher, trial.machine, trial.options, trial.recorder, trial.stop),
                    reasons[0]);
  CHECK(fs::is_empty(run.journal_dir()));
}

TEST_CASE("metrics are passed on, line by line, once each") {
  Trial trial;
  trial.launcher.script = script({{"a", {.after = 60ms}}});
  const journal::RunDirectory run = trial.create();
  std::ofstream file;
  int ticks = 0;
  trial.recorder.on_tick = [&] {
    if (++ticks > 6 || trial.launcher.running.empty()) return;
    if (!file.is_open()) {
      const auto attempts = run.job_dir("a") / "attempts";
      file.open(fs::directory_iterator(attempts)->path() / "metrics.jsonl");
    }
    file << (ticks % 2 == 1 ? "{\"step\":" : "1}\n") << std::flush;  // half a line at a time
  };
  CHECK(trial.run(make_plan({{"a"}}), run) == Outcome::completed);
  CHECK(trial.recorder.metric_lines["a"] == 3);
}

TEST_CASE("1,000 jobs take little time") {
  // In memory where there is such a file system: the time that counts here is the scheduler's, not the disk's.
  const char* folder = std::getenv("TMPDIR");
  const std::string before = folder == nullptr ? "" : folder;
  if (fs::is_directory("/dev/shm")) ::setenv("TMPDIR", "/dev/shm", 1);
  Trial trial;
  before.empty() ? ::unsetenv("TMPDIR") : ::setenv("TMPDIR", before.c_str(), 1);
  std::vector<JobSketch> jobs;
  for (int i = 0; i < 1000; ++i) {
    jobs.push_back(
        {"job" + std::to_string(i), i < 10 ? std::vector<std::string>() : std::vector{"job" + std::to_string(i / 10)}});
  }
  const auto took = [&] {
    const std::clock_t begin = std::clock();  // processor time: what else the machine does is no matter
    CHECK(trial.run_new(make_plan(jobs)) == Outcome::completed);
    CHECK(trial.launcher.started.size() == 1000);
    return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  };
  const double run = took();
  const double reused = took();
  WARN("1,000 jobs: run " << run << " s, reused " << reused << " s");
#ifndef __SANITIZE_ADDRESS__
  CHECK(run < 5);
  CHECK(reused < 5);
#endif
}

}  // namespace
}  // namespace braise::schedule
