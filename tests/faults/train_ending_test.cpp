// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "stages/shared/io/file.h"
#include "tests/faults/processes.h"
#include "tests/faults/small_training.h"
#include "tests/support/support.h"

namespace braise {
namespace {
namespace fs = std::filesystem;

using Catch::Contains;
using nlohmann::json;

std::set<std::string> checkpoints_of(const fs::path& run) {
  std::set<std::string> names;
  for (const auto& attempt : fs::directory_iterator(run / "jobs/pretrain/attempts")) {
    if (!fs::exists(attempt.path() / "checkpoints")) continue;
    for (const auto& one : fs::directory_iterator(attempt.path() / "checkpoints")) {
      if (fs::exists(one.path() / "manifest.json")) names.insert(one.path().filename());
    }
  }
  return names;
}

std::string state_of(const fs::path& run) {
  const test::Finished status = test::run_program({test::program("braise"), "status", run, "--json"});
  return json::parse(status.out).at("state");
}

/// A training that was let alone, and others to be held against it. No checkpoints but those asked for.
struct Trainings {
  test::TemporaryFolder folder;
  fs::path recipe = test::write_training_recipe(folder.path());
  std::vector<std::string> set{"stages.pretrain.checkpoint.every=0", "stages.pretrain.checkpoint.keep=50",
                               "stages.pretrain.steps=400"};
  fs::path straight;

  Trainings() {
    const test::Finished finished = test::run_program(test::training_command(recipe, folder.path() / "straight", set));
    INFO(finished.err);
    REQUIRE(finished.status == 0);
    straight = test::training_run_in(folder.path() / "straight");
    REQUIRE(checkpoints_of(straight) == std::set<std::string>{"step-00000400"});
  }

  pid_t start(const fs::path& runs, const fs::path& output, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all = set;
    all.insert(all.end(), more.begin(), more.end());
    return test::start(test::training_command(recipe, runs, all), output);
  }

  test::Finished resume(const fs::path& run) const {
    return test::run_program({test::program("braise"), "resume", run, "--runs", run.parent_path()});
  }

  /// Nothing of the run is left running, every step was told, and losses and weights are those of the straight run.
  void require_same(const fs::path& run) const {
    CHECK(test::all_gone(run));
    const test::Finished compared =
        test::run_program({test::program("braise"), "compare", straight / "jobs/pretrain", run / "jobs/pretrain"});
    INFO(compared.out << compared.err << test::logs_of(run));
    REQUIRE(compared.status == 0);
    CHECK_THAT(compared.out, Contains("identical through step 400"));
  }
};

TEST_CASE("a training that is asked to save, stop or end in time goes on to the same losses and weights") {
  const Trainings trainings;
  const fs::path output = trainings.folder.path() / "output";
  const fs::path runs = trainings.folder.path() / "runs";

  SECTION("USR1 to one rank saves, and the training goes on") {
    const pid_t runner = trainings.start(runs, output);
    REQUIRE(test::wait_for_step(runs, 50, runner));
    REQUIRE(::kill(test::processes_of("braise-worker", runs).front(), SIGUSR1) == 0);
    CHECK(test::end_of(runner) == 0);
    const fs::path run = test::training_run_in(runs);
    const std::set<std::string> saved = checkpoints_of(run);
    INFO(io::read_file(output));
    REQUIRE(saved.size() == 2);
    CHECK(*saved.begin() >= "step-00000050");
    CHECK(*saved.begin() < "step-00000400");
    CHECK(test::steps_told(run).size() == 400);
    trainings.require_same(run);
  }

  SECTION("TERM to one rank, or INT to the runner: saved and stopped; resume goes on from there") {
    const bool to_runner = GENERATE(true, false);
    const pid_t runner = trainings.start(runs, output);
    REQUIRE(test::wait_for_step(runs, 50, runner));
    REQUIRE((to_runner ? ::kill(runner, SIGINT) : ::kill(test::processes_of("braise-worker", runs).front(), SIGTERM)) ==
            0);
    CHECK(test::end_of(runner) == 1);
    const fs::path run = test::training_run_in(runs);
    INFO(io::read_file(output));
    CHECK(state_of(run) == "stopped");
    CHECK(checkpoints_of(run).size() == 1);
    const std::size_t told = test::steps_told(run).size();
    CHECK(told < 400);
    const test::Finished resumed = trainings.resume(run);
    INFO(resumed.err);
    REQUIRE(resumed.status == 0);
    CHECK(test::steps_told(run).size() == 400);  // none twice
    trainings.require_same(run);
  }

  SECTION("the time limit: saved and ended; each resume goes on from there") {
    const pid_t runner = trainings.start(runs, output, {"stages.pretrain.resources.time_limit=2s"});
    int status = test::end_of(runner);
    const fs::path run = test::training_run_in(runs);
    int attempts = 1;
    for (; status != 0 && attempts < 40; ++attempts) {
      const std::size_t before = test::steps_told(run).size();
      const test::Finished resumed = trainings.resume(run);
      status = resumed.status;
      INFO(resumed.err);
      CHECK(test::steps_told(run).size() > before);
    }
    INFO(io::read_file(output) << test::logs_of(run));
    REQUIRE(status == 0);
    CHECK(attempts > 1);
    CHECK_THAT(io::read_file(output), Contains("time limit"));
    CHECK(test::steps_told(run).size() == 400);
    trainings.require_same(run);
  }
}

TEST_CASE("a training whose disk fills up loses no checkpoint that it had, and goes on once there is room") {
  const test::SmallDisk disk("48m");
  if (!disk.mounted()) {
    WARN("skipped: this user may not mount a small disk");
    return;
  }
  const Trainings trainings;
  const fs::path output = trainings.folder.path() / "output";
  const fs::path runs = disk.path() / "runs";
  const pid_t runner = trainings.start(runs, output, {"stages.pretrain.checkpoint.every=25"});
  REQUIRE(test::wait_for_step(runs, 60, runner));
  {
    const fs::path hog = disk.path() / "hog";
    const io::FileDescriptor file(::open(hog.c_str(), O_WRONLY | O_CREAT, 0666));
    std::string junk(1 << 16, 'x');
    while (::write(file.get(), junk.data(), junk.size()) > 0) {
    }
    junk.resize(1);
    while (::write(file.get(), junk.data(), junk.size()) > 0) {
    }
    const int status = test::end_of(runner);
    INFO(io::read_file(output));
    CHECK(status == 1);  // at the latest the last checkpoint must be written
    CHECK(test::all_gone(runs));
    CHECK_THAT(io::read_file(output), Contains("No space left on device") || Contains("are free; make room"));
    fs::remove(hog);
  }
  const fs::path run = test::training_run_in(runs);
  const std::set<std::string> saved = checkpoints_of(run);
  CHECK(saved.contains("step-00000025"));
  CHECK(saved.contains("step-00000050"));
  for (const std::string& one : saved) {
    for (const auto& attempt : fs::directory_iterator(run / "jobs/pretrain/attempts")) {
      if (!fs::exists(attempt.path() / "checkpoints" / one)) continue;
      const test::Finished verified =
          test::run_program({test::program("braise"), "inspect", attempt.path() / "checkpoints" / one, "--verify"});
      INFO(verified.out << verified.err);
      CHECK(verified.status == 0);
    }
  }
  const test::Finished resumed = trainings.resume(run);
  INFO(resumed.err);
  REQUIRE(resumed.status == 0);
  trainings.require_same(run);
}

}  // namespace
}  // namespace braise
