// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "stages/shared/io/file.h"
#include "tests/runner/schedule/trial.h"

namespace braise::schedule {
namespace fs = std::filesystem;
using Catch::Matchers::Contains;
using namespace std::chrono_literals;
using End = Part::End;
namespace {

plan::Plan diamond() {
  return make_plan({{"a", {}}, {"b", {"a"}}, {"c", {"a"}}, {.name = "d", .needs = {"b", "c"}, .kind = "check"}});
}

void check_finished(const journal::RunDirectory& run, const plan::Plan& plan) {
  const journal::RunState state = journal::replay(run);
  for (const plan::Job& job : plan.jobs) {
    const journal::JobRecord* record = state.find(job.spec.job);
    INFO(job.spec.job);
    REQUIRE(record != nullptr);
    REQUIRE(record->completion);
    CHECK(record->completion->recorded);
    CHECK(io::read_file(run.path() / record->completion->completed.attempt_dir / "artifacts/out") ==
          "output of " + job.spec.job);
  }
}

TEST_CASE("a runner killed at any of its steps leaves a run that is resumed to the end") {
  const plan::Plan plan = diamond();
  // The nth thing that the observer is told is the last thing that the first runner lives to do.
  for (int last = 1;; ++last) {
    Trial trial;
    trial.options.fresh = true;
    const journal::RunDirectory run = trial.create();
    const pid_t child = ::fork();
    if (child == 0) {
      int calls = 0;
      trial.recorder.on_call = [&] {
        if (++calls == last) ::raise(SIGKILL);
      };
      const journal::RunLock lock = run.lock();
      run_plan(plan, run, lock, trial.launcher, trial.machine, trial.options, trial.recorder, trial.stop);
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    const std::size_t done_before = [&] {
      const journal::RunState state = journal::replay(run);
      return static_cast<std::size_t>(std::count_if(state.jobs.begin(), state.jobs.end(),
                                                    [](const auto& job) { return job.second.completion.has_value(); }));
    }();
    INFO("killed at step " << last << ", " << done_before << " jobs done");
    CHECK(trial.run(plan, run) == Outcome::completed);
    check_finished(run, plan);
    CHECK(trial.launcher.started.size() == plan.jobs.size() - done_before);
    if (WIFEXITED(status)) {
      CHECK(last > 12);
      break;
    }
    CHECK(WTERMSIG(status) == SIGKILL);
  }
}

TEST_CASE("with its journal cut after any event, a run is resumed to the end") {
  const plan::Plan plan = diamond();
  Trial whole;
  whole.options.fresh = true;
  const journal::RunDirectory original = whole.create();
  REQUIRE(whole.run(plan, original) == Outcome::completed);
  fs::path runner_file;
  for (const fs::directory_entry& entry : fs::directory_iterator(original.journal_dir())) {
    if (entry.path().filename().string().starts_with("runner-")) runner_file = entry.path().filename();
  }
  const std::string text = io::read_file(original.journal_dir() / runner_file);
  for (std::size_t end = 0; end <= text.size();
       end = text.find('\n', end) == std::string::npos ? text.size() + 1 : text.find('\n', end) + 1) {
    // Cut within the line that follows, too: a torn line is as none.
    for (const std::size_t torn : {std::size_t{0}, std::size_t{17}}) {
      Trial trial;
      trial.options.fresh = true;
      const fs::path copy = trial.folder.path() / original.id();
      fs::copy(original.path(), copy, fs::copy_options::recursive);
      io::write_file_durably(copy / "journal" / runner_file, text.substr(0, std::min(text.size(), end + torn)));
      const journal::RunDirectory run = journal::RunDirectory::open(copy);
      INFO("cut at " << end << " + " << torn);
      // Attempts whose start was cut away are ghosts now, of which the replay warns: so no check of a clean journal
      // here.
      const journal::RunLock lock = run.lock();
      CHECK(run_plan(plan, run, lock, trial.launcher, trial.machine, trial.options, trial.recorder, trial.stop) ==
            Outcome::completed);
      check_finished(run, plan);
    }
  }
}

TEST_CASE("a worker's success is recorded by the next runner where its own was killed") {
  Trial trial;
  const plan::Plan plan = make_plan({{"a"}});
  const journal::RunDirectory run = trial.create();
  const pid_t child = ::fork();
  if (child == 0) {
    trial.launcher.on_change = [&] {
      if (trial.launcher.running.empty()) ::raise(SIGKILL);  // the worker has written its last word
    };
    const journal::RunLock lock = run.lock();
    run_plan(plan, run, lock, trial.launcher, trial.machine, trial.options, trial.recorder, trial.stop);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  REQUIRE(WIFSIGNALED(status));
  REQUIRE_FALSE(journal::replay(run).find("a")->completion->recorded);
  CHECK(trial.run(plan, run) == Outcome::completed);
  CHECK(trial.launcher.started.empty());
  CHECK(journal::replay(run).find("a")->completion->recorded);
  // And other runs find it.
  CHECK(trial.run_new(plan) == Outcome::completed);
  CHECK(trial.launcher.started.empty());
}

TEST_CASE("a finished job whose outputs have vanished runs again") {
  Trial trial;
  const plan::Plan plan = make_plan({{"a"}, {"b", {"a"}}});
  const journal::RunDirectory run = trial.create();
  REQUIRE(trial.run(plan, run) == Outcome::completed);
  fs::remove(run.path() / journal::replay(run).find("a")->completion->completed.attempt_dir / "artifacts/out");
  CHECK(trial.run(plan, run) == Outcome::completed);
  CHECK(trial.launcher.attempts("a") == 2);
  CHECK(trial.launcher.attempts("b") == 1);
  REQUIRE(trial.recorder.warnings.size() == 1);
  CHECK_THAT(trial.recorder.warnings[0], Contains("job a was completed, but"));
}

TEST_CASE("a run that is finished is finished again at once") {
  Trial trial;
  const plan::Plan plan = diamond();
  const journal::RunDirectory run = trial.create();
  CHECK(trial.run(plan, run) == Outcome::completed);
  CHECK(trial.run(plan, run) == Outcome::completed);
  CHECK(trial.launcher.started.size() == 4);
}

TEST_CASE("an equal job of another run is not run again") {
  Trial trial;
  const plan::Plan plan = diamond();
  const journal::RunDirectory first = trial.create();
  REQUIRE(trial.run(plan, first) == Outcome::completed);
  trial.launcher.started.clear();
  const journal::RunDirectory second = trial.create();
  SECTION("its outputs are taken over; a kind that measures runs anew") {
    CHECK(trial.run(plan, second) == Outcome::completed);
    CHECK(trial.launcher.started == std::vector<std::string>{"d"});
    CHECK(state_of(second, "c") == "reused");
    CHECK(journal::replay(second).find("c")->from_run == first.id());
    check_finished(second, plan);
    // Without the first run, the second offers the same to a third.
    fs::remove_all(first.path());
    CHECK(trial.run_new(plan) == Outcome::completed);
    CHECK(trial.launcher.started == std::vector<std::string>{"d", "d"});
  }
  SECTION("unless it is to be fresh") {
    trial.options.fresh = true;
    CHECK(trial.run(plan, second) == Outcome::completed);
    CHECK(trial.launcher.started.size() == 4);
  }
  SECTION("unless the plan differs") {
    plan::Plan other = plan;
    other.jobs[1].spec.seed = 5;
    CHECK(trial.run(other, second) == Outcome::completed);
    CHECK(trial.launcher.attempts("b") == 1);
    CHECK(trial.launcher.attempts("a") == 0);
    CHECK(trial.launcher.attempts("c") == 0);
  }
  SECTION("unless the outputs have changed") {
    const fs::path out =
        first.path() / journal::replay(first).find("b")->completion->completed.attempt_dir / "artifacts/out";
    io::write_file_durably(out, "OUTPUT of b");
    CHECK(trial.run(plan, second) == Outcome::completed);
    CHECK(trial.launcher.attempts("b") == 1);
    CHECK(trial.launcher.attempts("a") == 0);
    REQUIRE(trial.recorder.warnings.size() == 1);
    CHECK_THAT(trial.recorder.warnings[0],
               Contains("job b is run, because what " + first.id() + " left of it cannot be reused"));
    check_finished(second, plan);
  }
}

TEST_CASE("a failed job and those it blocked are tried again by the next runner") {
  Trial trial;
  trial.launcher.script = [](const std::string& job, int attempt) {
    return Part{.end = job == "b" && attempt == 1 ? End::dies : End::completes};
  };
  const plan::Plan plan = diamond();
  const journal::RunDirectory run = trial.create();
  CHECK(trial.run(plan, run) == Outcome::failed);
  CHECK(trial.run(plan, run) == Outcome::completed);
  CHECK(trial.launcher.started.size() == 5);
  check_finished(run, plan);
}

}  // namespace
}  // namespace braise::schedule
