// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "tests/faults/processes.h"
#include "tests/support/support.h"

namespace braise {
namespace {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// SHA-256 of every artifact of a run's completed jobs, by "<job>/<file name>".
std::map<std::string, std::string> outputs_of(const fs::path& run) {
  const test::Finished status = test::run_program({test::program("braise"), "status", run, "--json"});
  INFO(status.err);
  REQUIRE(status.status == 0);
  std::map<std::string, std::string> digests;
  const nlohmann::json jobs = nlohmann::json::parse(status.out).at("jobs");
  for (const auto& job : jobs) {
    INFO(job.dump());
    REQUIRE(job.at("state") == "completed");
    const fs::path artifacts = run / job.at("attempt_dir").get<std::string>() / "artifacts";
    for (const auto& entry : fs::directory_iterator(artifacts)) {
      if (entry.path().extension() != ".h5") continue;
      digests[job.at("job").get<std::string>() + "/" + entry.path().filename().string()] =
          io::digest_file(entry.path()).sha256;
    }
  }
  return digests;
}

fs::path only_run_in(const fs::path& runs) {
  fs::path run;
  for (const auto& entry : fs::directory_iterator(runs)) {
    if (entry.path().filename().string().starts_with("dictionaries-")) run = entry.path();
  }
  return run;
}

std::vector<std::string> run_command(const fs::path& runs, int workers) {
  return {test::program("braise"),
          "run",
          test::source_dir() / "recipes/dictionaries.yaml",
          "--runs",
          runs,
          "--set",
          "resources.workers_per_node=" + std::to_string(workers)};
}

TEST_CASE("a run killed at any instant is resumed to the same outputs") {
  const int kills = test::from_environment("BRAISE_KILLS", 6);
  const auto seed =
      static_cast<unsigned>(test::from_environment("BRAISE_KILL_SEED", static_cast<int>(std::random_device()() >> 1)));
  WARN("kills: " << kills << ", seed: " << seed);
  std::mt19937 random(seed);

  const test::TemporaryFolder folder;
  const auto started = Clock::now();
  const test::Finished straight = test::run_program(run_command(folder.path() / "straight", 2));
  const std::chrono::duration<double> straight_s = Clock::now() - started;
  INFO(straight.err);
  REQUIRE(straight.status == 0);
  const auto expected = outputs_of(only_run_in(folder.path() / "straight"));
  REQUIRE(expected.size() > 10);

  const char* const kTargets[] = {"braise run", "mpirun", "braise-worker"};
  std::map<std::string, int> hits;
  for (int i = 0; i < kills; ++i) {
    const fs::path runs = folder.path() / ("killed-" + std::to_string(i));
    const fs::path output = folder.path() / ("output-" + std::to_string(i));
    const int target = i % 3;
    const pid_t runner = test::start(run_command(runs, i / 3 % 2 == 0 ? 2 : 4), output);
    const double delay_s = std::uniform_real_distribution<>(0.0, straight_s.count())(random);
    std::this_thread::sleep_for(std::chrono::duration<double>(delay_s));
    // Between two jobs there is no mpirun: then the kill comes as soon as there is one.
    const bool hit = target == 0 ? !test::has_ended(runner) && ::kill(runner, SIGKILL) == 0
                                 : test::kill_one(kTargets[target], runs, runner, static_cast<unsigned>(random()));
    hits[hit ? kTargets[target] : "missed, the run had ended"] += 1;
    int status = 0;
    ::waitpid(runner, &status, 0);
    INFO("kill " << i << " of " << kTargets[target] << " after " << delay_s << " s; output:\n"
                 << io::read_file(output));
    CHECK(test::all_gone(runs));

    const fs::path run = fs::exists(runs) ? only_run_in(runs) : fs::path();
    // Killed before there was a run: there is nothing to resume, and nothing half made.
    if (run.empty()) continue;
    const test::Finished resumed = test::run_program({test::program("braise"), "resume", run, "--runs", runs});
    INFO(resumed.out << resumed.err);
    REQUIRE(resumed.status == 0);
    CHECK(outputs_of(run) == expected);
    CHECK(test::all_gone(runs));
    CHECK((!fs::exists(run / "scratch") || fs::is_empty(run / "scratch")));
    fs::remove_all(runs);
  }
  std::string counts;
  for (const auto& [name, count] : hits) counts += name + ": " + std::to_string(count) + "  ";
  WARN("killed: " << counts);
  if (kills >= 6) CHECK(hits.size() >= 3);
}

}  // namespace
}  // namespace braise
