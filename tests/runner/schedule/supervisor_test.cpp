// SPDX-License-Identifier: Apache-2.0
#include "runner/schedule/supervisor.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "runner/journal/event.h"
#include "stages/shared/io/clock.h"
#include "tests/runner/schedule/trial.h"

namespace braise::schedule {
namespace {

using namespace std::chrono_literals;

constexpr std::int64_t kHour = 3600'000'000;

/// A run that was submitted, and the supervisor of its job `a` in a Slurm job that is told what to say.
struct Supervised {
  Trial trial;
  journal::RunDirectory run = trial.create();
  SupervisorSignals signals;
  std::vector<std::optional<std::int64_t>> ends;  ///< what Slurm says of the end, one after another; the last stays
  std::size_t asked = 0;
  int requeued = 0;
  int restart = 0;
  bool preflight = false, exclude_failed = false;
  std::set<std::string> kept_off;
  bool refuses_to_keep_off = false;

  Supervised() {
    journal::Writer writer(run.journal_dir(), "runner-1");
    writer.append({{"event", "runner_started"},
                   {"session", 1},
                   {"pid", 1},
                   {"host", "login"},
                   {"command", {"braise", "submit"}}});
    writer.append({{"event", "group_submitted"},
                   {"group", "a"},
                   {"slurm_job", "7"},
                   {"jobs", {"a"}},
                   {"indices", nlohmann::json::array()}});
    writer.append({{"event", "runner_ended"}, {"outcome", "submitted"}});
  }

  SupervisorEnd supervise(const JobSketch& job) {
    Supervision what;
    what.session = 1;
    what.job = job.name;
    what.slurm_job = "7";
    what.nodes = "n[1-2]";
    what.node_names = {"n1", "n2"};
    what.restart = restart;
    what.preflight = preflight;
    what.exclude_failed = exclude_failed;
    what.names_of = [&](const std::string&) { return what.node_names; };
    what.keep_off = [&](const std::set<std::string>& nodes) {
      if (refuses_to_keep_off) throw core::Error("not permitted");
      kept_off = nodes;
    };
    what.requeue = [&] {
      ++requeued;
      signals.terminate.ask();
    };
    what.ends_us = [&]() -> std::optional<std::int64_t> {
      return ends.empty() ? std::nullopt : ends[std::min(asked++, ends.size() - 1)];
    };
    what.is_running = [] { return true; };
    return schedule::supervise(make_plan({job}), run, what, trial.launcher, trial.options, trial.recorder, signals);
  }

  /// The end that the workers of the last attempt were told; 0: none.
  std::int64_t told_us() const {
    const std::vector<std::string>& command = trial.launcher.last_command;
    const auto option = std::ranges::find(command, "--ends-at");
    return option == command.end() ? 0 : io::parse_utc(*std::next(option));
  }
};

TEST_CASE("workers are told when Slurm will end their job, or their own limit where that is earlier") {
  Supervised on;
  const std::int64_t end_us = io::utc_us() + kHour;
  SECTION("Slurm's") {
    on.ends = {end_us};
    CHECK(on.supervise({.name = "a", .time_limit_s = 7200}) == SupervisorEnd::completed);
    CHECK(on.told_us() == end_us);
  }
  SECTION("their own") {
    on.ends = {end_us};
    CHECK(on.supervise({.name = "a", .time_limit_s = 60}) == SupervisorEnd::completed);
    CHECK(on.told_us() > 0);
    CHECK(on.told_us() < end_us);
  }
  SECTION("none") {
    CHECK(on.supervise({.name = "a"}) == SupervisorEnd::completed);
    CHECK(on.told_us() == 0);
  }
}

TEST_CASE("a job that stops before its time is up is queued again, unless Slurm gives it more time meanwhile") {
  Supervised on;
  on.trial.launcher.script = [](const std::string&, int attempt) { return Part{.stops_by_itself = attempt == 1}; };
  const std::int64_t end_us = io::utc_us() + kHour;
  SECTION("the same end") {
    on.ends = {end_us};
    CHECK(on.supervise({.name = "a"}) == SupervisorEnd::requeued);
    CHECK(on.requeued == 1);
    CHECK(on.trial.launcher.attempts("a") == 1);
  }
  SECTION("an earlier end") {
    on.ends = {end_us, end_us - kHour / 2};
    CHECK(on.supervise({.name = "a"}) == SupervisorEnd::requeued);
  }
  SECTION("a later end") {
    on.ends = {end_us, end_us + kHour};
    CHECK(on.supervise({.name = "a"}) == SupervisorEnd::completed);
    CHECK(on.requeued == 0);
    CHECK(on.trial.launcher.attempts("a") == 2);
    CHECK(on.told_us() == end_us + kHour);
  }
}

/// What an attempt leaves that failed on a node.
Part failing_on(const std::string& host) {
  Part part;
  part.end = Part::End::fails;
  part.host = host;
  return part;
}

TEST_CASE("nodes are checked before the job, as often as Slurm starts it") {
  Supervised on;
  on.preflight = true;
  CHECK(on.supervise({.name = "a", .ranks = 2}) == SupervisorEnd::completed);
  CHECK(on.trial.launcher.started == std::vector<std::string>{"a.preflight", "a"});
  const stages::JobSpec check = stages::read_job(on.run.job_file("a.preflight"));
  CHECK(check.kind == "check");
  CHECK(check.resources.ranks() == 2);
  CHECK(check.config.at("free_memory") == check.resources.host_memory_bytes);
  CHECK(journal::replay(on.run).warnings.empty());
}

TEST_CASE("a node that fails its check is named and kept off, and the job is queued again") {
  Supervised on;
  on.preflight = true;
  on.trial.launcher.script = [](const std::string& job, int) {
    return job == "a.preflight" ? failing_on("n2") : Part();
  };
  SECTION("its rank tells") {}
  SECTION("Slurm does not keep it off") {
    on.refuses_to_keep_off = true;
  }
  CHECK(on.supervise({.name = "a"}) == SupervisorEnd::requeued);
  CHECK(on.requeued == 1);
  CHECK(on.trial.launcher.attempts("a") == 0);
  CHECK(on.kept_off == (on.refuses_to_keep_off ? std::set<std::string>() : std::set<std::string>{"n2"}));
  CHECK(on.trial.recorder.warnings.size() == (on.refuses_to_keep_off ? 1 : 0));
  const journal::RunState state = journal::replay(on.run);
  CHECK(state.find("a")->off_nodes == std::set<std::string>{"n2"});
  CHECK(state.state_of("a") == journal::JobState::waiting);
  CHECK_THAT(state.find("a")->reason, Catch::StartsWith("node n2 failed its check: rank 1 on host n2: "));
  // Were it to go on so, the job is given up some day.
  SupervisorEnd end = SupervisorEnd::requeued;
  int starts = 1;
  for (; end == SupervisorEnd::requeued && starts < 100; ++starts) end = on.supervise({.name = "a"});
  CHECK(end == SupervisorEnd::failed);
  CHECK(starts == 4);
  CHECK_THAT(journal::replay(on.run).find("a")->reason, Catch::Contains("3 times in a row"));
}

TEST_CASE("of ranks that fail without a word, srun names the node") {
  Supervised on;
  on.preflight = true;
  on.trial.launcher.script = [](const std::string& job, int) {
    Part part;
    if (job != "a.preflight") return part;
    part.end = Part::End::dies;
    part.printed =
        "srun: error: n10: task 5: Exited with exit code 255\nsrun: error: n1: tasks 0-1: Killed\n"
        "srun: error: n2: tasks 2-3: Exited with exit code 255\nsrun: error: n1: task 4: Exited with exit code 1\n";
    return part;
  };
  CHECK(on.supervise({.name = "a"}) == SupervisorEnd::requeued);
  CHECK(on.kept_off == std::set<std::string>{"n2"});
  CHECK_THAT(journal::replay(on.run).find("a")->reason, Catch::Contains("/launch.txt"));
}

TEST_CASE("a check that fails on no known node is made once more, and then is a failed attempt") {
  Supervised on;
  on.preflight = true;
  int failing = 1;
  on.trial.launcher.script = [&](const std::string& job, int attempt) {
    return job == "a.preflight" && attempt <= failing ? failing_on("elsewhere") : Part();
  };
  SECTION("once") {
    CHECK(on.supervise({.name = "a"}) == SupervisorEnd::completed);
    CHECK(on.trial.launcher.started == std::vector<std::string>{"a.preflight", "a.preflight", "a"});
  }
  SECTION("twice, with a retry") {
    failing = 2;
    CHECK(on.supervise({.name = "a", .retries = 1}) == SupervisorEnd::completed);
    CHECK(on.trial.launcher.attempts("a.preflight") == 3);
  }
  SECTION("twice, without") {
    failing = 2;
    CHECK(on.supervise({.name = "a"}) == SupervisorEnd::failed);
    CHECK_THAT(journal::replay(on.run).find("a")->reason, Catch::StartsWith("the check of its nodes failed: "));
  }
  CHECK(on.requeued == 0);
}

TEST_CASE("a job keeps off the node on which its supervisor vanished, where the site asks for that") {
  Supervised on;
  on.exclude_failed = true;
  on.restart = 1;
  {
    journal::Writer lost(on.run.journal_dir(), "slurm-7-0-000000");
    lost.append({{"event", "supervisor_started"},
                 {"session", 1},
                 {"job", "a"},
                 {"slurm_job", "7"},
                 {"restart", 0},
                 {"host", "n1"},
                 {"pid", 1},
                 {"nodes", "n[1-2]"}});
    lost.append({{"event", "attempt_started"},
                 {"job", "a"},
                 {"attempt", 1},
                 {"token", "00000a"},
                 {"fingerprint", std::string(64, '0')},
                 {"ranks", 1},
                 {"threads", 1},
                 {"cores", nlohmann::json::array()}});
  }
  SECTION("asked for") {
    CHECK(on.supervise({.name = "a"}) == SupervisorEnd::requeued);
    CHECK(on.kept_off == std::set<std::string>{"n1"});
    // On it again all the same, it works there rather than wait for ever.
    on.restart = 2;
    CHECK(on.supervise({.name = "a"}) == SupervisorEnd::completed);
    const journal::RunState state = journal::replay(on.run);
    CHECK(state.state_of("a") == journal::JobState::completed);
    CHECK(state.find("a")->attempts.back().name.number == 3);
  }
  SECTION("not asked for") {
    on.exclude_failed = false;
    CHECK(on.supervise({.name = "a"}) == SupervisorEnd::completed);
  }
  SECTION("Slurm has not started it anew: another supervisor may be alive") {
    on.restart = 0;
    CHECK(on.supervise({.name = "a"}) == SupervisorEnd::completed);
  }
}

}  // namespace
}  // namespace braise::schedule
