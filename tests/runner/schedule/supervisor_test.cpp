// SPDX-License-Identifier: Apache-2.0
#include "runner/schedule/supervisor.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

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
    what.nodes = "n1";
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

}  // namespace
}  // namespace braise::schedule
