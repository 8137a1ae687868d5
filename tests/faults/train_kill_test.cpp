// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "stages/shared/io/file.h"
#include "tests/faults/processes.h"
#include "tests/faults/small_training.h"
#include "tests/support/support.h"

namespace braise {
namespace {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

TEST_CASE("a training killed at any instant ends with the losses and weights of one that was not") {
  const int kills = test::from_environment("BRAISE_KILLS", 4);
  const auto seed =
      static_cast<unsigned>(test::from_environment("BRAISE_KILL_SEED", static_cast<int>(std::random_device()() >> 1)));
  WARN("kills: " << kills << ", seed: " << seed);
  std::mt19937 random(seed);
  const test::TemporaryFolder folder;
  const fs::path recipe = test::write_training_recipe(folder.path());
  const auto command = [&](const fs::path& runs, int workers) {
    return test::training_command(recipe, runs, {"resources.workers_per_node=" + std::to_string(workers)});
  };
  const auto started = Clock::now();
  const test::Finished straight = test::run_program(command(folder.path() / "straight", 2));
  const std::chrono::duration<double> straight_s = Clock::now() - started;
  INFO(straight.err);
  REQUIRE(straight.status == 0);
  const fs::path expected = test::training_run_in(folder.path() / "straight");

  const char* const kTargets[] = {"braise-worker", "braise", "mpirun"};
  for (int i = 0; i < kills; ++i) {
    const fs::path runs = folder.path() / ("runs-" + std::to_string(i));
    const fs::path output = folder.path() / ("output-" + std::to_string(i));
    const pid_t runner = test::start(command(runs, i % 2 == 0 ? 2 : 4), output);
    const double delay_s = std::uniform_real_distribution<>(0.3, straight_s.count())(random);
    std::this_thread::sleep_for(std::chrono::duration<double>(delay_s));
    const bool hit = test::kill_one(kTargets[i % 3], runs, runner, static_cast<unsigned>(random()));
    int status = 0;
    ::waitpid(runner, &status, 0);
    INFO("kill " << i << " of " << kTargets[i % 3] << (hit ? "" : " (too late)") << " after " << delay_s
                 << " s; output:\n"
                 << io::read_file(output));
    CHECK(test::all_gone(runs));
    const fs::path run = test::training_run_in(runs);
    if (run.empty()) continue;  // killed before there was a run
    const test::Finished resumed = test::run_program({test::program("braise"), "resume", run, "--runs", runs});
    INFO(resumed.out << resumed.err);
    REQUIRE(resumed.status == 0);
    const test::Finished compared =
        test::run_program({test::program("braise"), "compare", expected / "jobs/pretrain", run / "jobs/pretrain"});
    INFO(compared.out << compared.err);
    CHECK(compared.status == 0);
    CHECK_THAT(compared.out, Catch::Contains("identical through step 150"));
    fs::remove_all(runs);
  }
}

}  // namespace
}  // namespace braise
