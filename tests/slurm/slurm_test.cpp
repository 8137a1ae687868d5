// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "stages/shared/io/file.h"
#include "tests/slurm/cluster.h"

// A test on a virtual cluster; where there can be none it says so, and ctest counts it as skipped.
#define NEEDS_SLURM()                                                       \
  if (const std::string why = test::Cluster::missing(); !why.empty()) {     \
    std::cout << "SKIPPED: no virtual Slurm cluster here: " << why << "\n"; \
    return;                                                                 \
  }

namespace braise {
namespace {
namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr int kSteps = 240;

std::string training(int steps = kSteps) {
  return R"(recipe: 1
name: train
resources: {workers_per_node: 2, host_memory: 256MiB}
stages:
  corpus:
    kind: tokenize
    input: /usr/share/dictd/devil.dict.dz
    validation: {fraction: 0.1, take: tail}
  pretrain:
    kind: train
    data: {tokens: "${stages.corpus.tokens}", sequence: 64}
    model: {family: llama, layers: 2, hidden: 64, heads: 4, kv_heads: 2}
    batch: {global: 16, micro: 2}
    checkpoint: {every: 10, keep: 2}
    steps: )" +
         std::to_string(steps) + "\n";
}

/// A cluster with one run of a recipe on it.
struct OnCluster {
  test::Cluster cluster;
  fs::path runs, recipe, run;

  explicit OnCluster(const std::string& text)
      : runs(cluster.folder() / "runs"), recipe(cluster.folder() / "recipe.yaml") {
    io::write_file_durably(cluster.folder() / "letters.txt", "abcdefgh\n");
    io::write_file_durably(recipe, text);
  }

  test::Finished submit(const fs::path& first_on_path = {}) {
    const test::Finished finished =
        cluster.braise({"submit", recipe, "--site", cluster.site(), "--runs", runs}, first_on_path);
    std::istringstream lines(finished.out);
    for (std::string line; std::getline(lines, line);) run = line;
    return finished;
  }

  json status() const {
    const test::Finished finished = cluster.braise({"status", run, "--json"});
    INFO(finished.err);
    REQUIRE(finished.status == 0);
    return json::parse(finished.out);
  }

  std::string state(const std::string& job) const {
    const json all = status();
    for (const json& entry : all.at("jobs")) {
      if (entry.at("job") == job) return entry.at("state");
    }
    return "no such job";
  }

  /// Waits for the run's end; what Slurm and the run have to say is shown where a check after it fails.
  test::Finished wait() const { return cluster.run({"timeout", "150", test::program("braise"), "wait", run}); }

  std::string story() const {
    std::string text = cluster.braise({"status", run}).out + cluster.run({"squeue"}).out;
    for (const char* folder : {"slurm/1", "slurm/2"}) {
      if (!fs::exists(run / folder)) continue;
      for (const auto& entry : fs::directory_iterator(run / folder)) {
        if (entry.path().extension() == ".txt") {
          text += "--- " + entry.path().filename().string() + "\n" + io::read_file(entry.path());
        }
      }
    }
    return text;
  }

  /// The attempt that goes on now, once it has done so many steps.
  fs::path attempt_at_step(int step) const {
    const fs::path attempts = run / "jobs/pretrain/attempts";
    for (const Clock::time_point give_up = Clock::now() + 60s; Clock::now() < give_up;) {
      for (const auto& entry : fs::exists(attempts) ? fs::directory_iterator(attempts) : fs::directory_iterator()) {
        const fs::path metrics = entry.path() / "metrics.jsonl";
        if (!fs::exists(metrics)) continue;
        if (io::read_file(metrics).find("\"step\":" + std::to_string(step) + ",") != std::string::npos) {
          return entry.path();
        }
      }
      std::this_thread::sleep_for(50ms);
    }
    FAIL("the training does not come to step " << step << "\n" << story());
    return {};
  }

  std::string node_of(const std::string& job) const {
    const json all = status();
    for (const json& entry : all.at("jobs")) {
      if (entry.at("job") == job) return entry.at("slurm").at("nodes");
    }
    return "";
  }

  int attempts() const {
    int count = 0;
    for (const auto& entry : fs::directory_iterator(run / "jobs/pretrain/attempts")) count += entry.is_directory();
    return count;
  }
};

/// The run of a recipe on this machine without Slurm: what all others are held against.
fs::path undisturbed(const fs::path& recipe, const fs::path& runs) {
  const test::Finished finished = test::run_program({test::program("braise"), "run", recipe, "--runs", runs});
  INFO(finished.err);
  REQUIRE(finished.status == 0);
  std::string line, last;
  for (std::istringstream lines(finished.out); std::getline(lines, line);) last = line;
  return last;
}

/// Ends the training by itself, with the bits of the undisturbed one.
void check_same(const OnCluster& on, int steps = kSteps) {
  const test::Finished ended = on.wait();
  INFO(on.story());
  REQUIRE(ended.status == 0);
  const fs::path straight = undisturbed(on.recipe, on.cluster.folder() / "straight");
  const test::Finished compared =
      test::run_program({test::program("braise"), "compare", straight / "jobs/pretrain", on.run / "jobs/pretrain"});
  INFO(compared.out << compared.err);
  CHECK(compared.status == 0);
  CHECK_THAT(compared.out, Catch::Contains("identical through step " + std::to_string(steps)));
}

TEST_CASE("a chain and a sweep go through Slurm by themselves") {
  NEEDS_SLURM();
  OnCluster on(R"(recipe: 1
name: chain
resources: {host_memory: 64MiB}
vars: {d: 10ms}
slurm: {max_running: 2}
stages:
  letters: {kind: tokenize, input: letters.txt}
  wide: {kind: check, duration: 10ms, memory_size: 1MiB, gemm_size: 32, resources: {nodes: 2, workers_per_node: 2}, after: [letters]}
  first: {kind: check, duration: "${vars.d}", memory_size: 1MiB, gemm_size: 32, after: [letters]}
  second: {kind: check, duration: "${vars.d}", memory_size: 2MiB, gemm_size: 32, after: [first]}
sweep: {vars.d: [10ms, 11ms, 12ms]}
)");
  const test::Finished submitted = on.submit();
  INFO(submitted.err);
  REQUIRE(submitted.status == 0);
  CHECK_THAT(submitted.err, Catch::Contains("first: Slurm job"));
  CHECK_THAT(submitted.err, Catch::Contains("an array of 3"));
  CHECK(on.status().at("state") == "running");
  const test::Finished ended = on.wait();
  INFO(on.story());
  CHECK(ended.status == 0);
  const json status = on.status();
  CHECK(status.at("state") == "completed");
  CHECK(status.at("jobs").size() == 8);
  CHECK(status.at("warnings").empty());
  const std::string script = io::read_file(on.run / "slurm/1/first.sh");
  CHECK_THAT(script, Catch::Contains("#SBATCH --array=0-2%2\n") && Catch::Contains("#SBATCH --partition=low\n"));
  // Two nodes were two hosts' worth of ranks, as far as Slurm is concerned.
  const std::string wide = io::read_file(on.run / "slurm/1/wide.sh");
  CHECK_THAT(wide, Catch::Contains("#SBATCH --nodes=2\n") && Catch::Contains("#SBATCH --ntasks-per-node=2\n"));
  CHECK(fs::exists(on.run / "slurm/1/site.yaml"));
  const test::Finished again = on.cluster.braise({"resume", on.run});
  INFO(again.err);
  CHECK(again.status == 0);
  CHECK_THAT(again.err, Catch::Contains("nothing is left to do"));
  const test::Finished logs = on.cluster.braise({"logs", on.run, "letters"});
  CHECK_THAT(logs.out, Catch::Contains("[letters.0]") && Catch::Contains("completed"));
}

TEST_CASE("a halving goes on through Slurm, without a point that fails") {
  NEEDS_SLURM();
  OnCluster on(R"(recipe: 1
name: halved
resources: {host_memory: 128MiB}
stages:
  corpus: {kind: tokenize, input: /usr/share/dictd/devil.dict.dz, validation: {fraction: 0.1, take: tail}}
  pretrain:
    kind: train
    data: {tokens: "${stages.corpus.tokens}", sequence: 16}
    model: {family: llama, layers: 1, hidden: 16, heads: 2}
    batch: {global: 4, micro: 4}
    steps: 8
    validation: {sequences: 8}
sweep:
  zip: [{stages.pretrain.optimizer.lr: [1e-4, 1e-2, 1e-2, 3e-2], stages.pretrain.data.sequence: [16, 999999, 16, 16]}]
  halving: {stage: pretrain, rungs: [4], factor: 2}
)");
  const test::Finished submitted = on.submit();
  INFO(submitted.err);
  REQUIRE(submitted.status == 0);
  CHECK_THAT(submitted.err, Catch::Contains("an array of 4") && Catch::Contains("pretrain.rung-2: Slurm job"));
  const test::Finished ended = on.wait();
  INFO(on.story());
  CHECK(ended.status == 1);
  std::map<std::string, json> jobs;
  const json status = on.status();
  for (const json& job : status.at("jobs")) jobs[job.at("job")] = job;
  CHECK(jobs.at("pretrain.2").at("state") == "failed");
  for (const char* job : {"pretrain.select-1", "pretrain.rung-2.1", "pretrain.rung-2.2", "pretrain.select-2"}) {
    INFO(job);
    CHECK(jobs.at(job).at("state") == "completed");
  }
  CHECK(jobs.at("pretrain.rung-2.1").at("parameters") == jobs.at("pretrain.4").at("parameters"));
  CHECK(jobs.at("pretrain.rung-2.2").at("parameters") == jobs.at("pretrain.3").at("parameters"));
}

TEST_CASE("a failed job takes those that need it out of the queue, and resume goes on") {
  NEEDS_SLURM();
  OnCluster on(R"(recipe: 1
name: fails
resources: {host_memory: 64MiB}
stages:
  letters: {kind: tokenize, input: letters.txt}
  after: {kind: check, duration: 10ms, memory_size: 1MiB, gemm_size: 32, after: [letters]}
)");
  // A stage before it gives time to spoil the input of the one that fails.
  const fs::path input = on.cluster.folder() / "letters.txt";
  const test::Finished full = on.cluster.run({"scontrol", "update", "PartitionName=low", "State=DOWN"});
  REQUIRE(full.status == 0);
  REQUIRE(on.submit().status == 0);
  io::write_file_durably(input, "other\n");
  REQUIRE(on.cluster.run({"scontrol", "update", "PartitionName=low", "State=UP"}).status == 0);
  const test::Finished ended = on.wait();
  INFO(on.story());
  CHECK(ended.status == 1);
  CHECK(on.state("letters") == "failed");
  CHECK(on.state("after") == "blocked");
  io::write_file_durably(input, "abcdefgh\n");
  const test::Finished resumed = on.cluster.braise({"resume", on.run});
  INFO(resumed.err);
  REQUIRE(resumed.status == 0);
  CHECK(on.wait().status == 0);
  CHECK(on.status().at("state") == "completed");
}

TEST_CASE("a cancelled run stops with what it has, and resume goes on to the same bits") {
  NEEDS_SLURM();
  OnCluster on(training());
  REQUIRE(on.submit().status == 0);
  on.attempt_at_step(15);
  // While Slurm has it, nobody else may.
  const test::Finished refused = on.cluster.braise({"resume", on.run});
  CHECK(refused.status == 2);
  CHECK_THAT(refused.err, Catch::Contains("still in Slurm's hands"));
  CHECK(on.cluster.braise({"clean", on.run}).status == 2);
  const test::Finished cancelled = on.cluster.braise({"cancel", on.run});
  CHECK(cancelled.status == 0);
  CHECK(on.wait().status == 1);
  INFO(on.story());
  CHECK(on.status().at("state") == "stopped");
  CHECK(on.state("pretrain") == "stopped");
  REQUIRE(on.cluster.braise({"resume", on.run}).status == 0);
  check_same(on);
  CHECK(on.attempts() == 2);
}

TEST_CASE("a requeued training goes on to the same bits") {
  NEEDS_SLURM();
  OnCluster on(training());
  REQUIRE(on.submit().status == 0);
  on.attempt_at_step(15);
  const std::string id = on.cluster.run({"squeue", "-h", "-t", "R", "-o", "%i"}).out;
  REQUIRE(on.cluster.run({"scontrol", "requeue", id.substr(0, id.find('\n'))}).status == 0);
  check_same(on);
  CHECK(on.attempts() == 2);
}

TEST_CASE("a preempted training saves, and goes on when its nodes are free again") {
  NEEDS_SLURM();
  OnCluster on(training());
  REQUIRE(on.submit().status == 0);
  on.attempt_at_step(15);
  REQUIRE(on.cluster
              .run({"sbatch", "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--time=1",
                    "--wrap=sleep 2"})
              .status == 0);
  check_same(on);
  CHECK(on.attempts() == 2);
  // It stopped by itself rather than being killed: its last words are there.
  bool saved = false;
  for (const auto& entry : fs::directory_iterator(on.run / "journal")) {
    saved = saved || io::read_file(entry.path()).find("\"stage_stopped\"") != std::string::npos;
  }
  CHECK(saved);
}

TEST_CASE("a training whose node is lost goes on elsewhere") {
  NEEDS_SLURM();
  // Longer than Slurm takes to miss a node.
  const int steps = 400;
  OnCluster on(training(steps));
  REQUIRE(on.submit().status == 0);
  on.attempt_at_step(15);
  const std::string node = on.node_of("pretrain");
  int least = 2;
  SECTION("taken out by the administrator") {
    REQUIRE(on.cluster.run({"scontrol", "update", "NodeName=" + node, "State=DOWN", "Reason=test"}).status == 0);
  }
  SECTION("its slurmd killed, while the ranks live on") {
    on.cluster.kill("slurmd." + node);
    least = 1;  // they may be done before Slurm starts the job anew
  }
  check_same(on, steps);
  CHECK(on.attempts() >= least);
}

TEST_CASE("a controller that is killed changes nothing") {
  NEEDS_SLURM();
  const int steps = 40;
  OnCluster on(training(steps));
  SECTION("within a second of a start") {
    REQUIRE(on.submit().status == 0);
    on.attempt_at_step(1);
    on.cluster.kill("slurmctld");
    on.cluster.start_controller();
  }
  SECTION("while a job waits for another") {
    REQUIRE(on.cluster.run({"scontrol", "update", "PartitionName=low", "State=DOWN"}).status == 0);
    REQUIRE(on.submit().status == 0);
    std::this_thread::sleep_for(7s);  // what it has not yet written to its disk would be lost
    on.cluster.kill("slurmctld");
    on.cluster.start_controller();
    CHECK(on.state("pretrain") == "queued");
    REQUIRE(on.cluster.run({"scontrol", "update", "PartitionName=low", "State=UP"}).status == 0);
  }
  SECTION("before the submission, and back during it") {
    on.cluster.kill("slurmctld");
    std::thread back([&] {
      std::this_thread::sleep_for(1s);
      on.cluster.start_controller();
    });
    const test::Finished submitted = on.submit();
    back.join();
    INFO(submitted.err);
    REQUIRE(submitted.status == 0);
  }
  check_same(on, steps);
}

/// The log of rank 0 of an attempt at the training, once it says something.
std::string log_saying(const OnCluster& on, int attempt, const std::string& text, std::chrono::seconds patience) {
  const fs::path attempts = on.run / "jobs/pretrain/attempts";
  for (const Clock::time_point give_up = Clock::now() + patience; Clock::now() < give_up;) {
    for (const auto& entry : fs::exists(attempts) ? fs::directory_iterator(attempts) : fs::directory_iterator()) {
      const fs::path file = entry.path() / "log.0.txt";
      const std::string folder = entry.path().filename().string();
      if (!folder.starts_with(std::to_string(attempt) + "-") || !fs::exists(file)) continue;
      const std::string log = io::read_file(file);
      if (log.find(text) != std::string::npos) return log;
    }
    std::this_thread::sleep_for(50ms);
  }
  FAIL("attempt " << attempt << " does not come to say: " << text << "\n" << on.story());
  return "";
}

/// An endless training stops before its job's end, and the next attempt goes on from there; how many Slurm jobs had
/// begun by then.
int starts_until_second(const OnCluster& on, std::chrono::seconds patience) {
  const std::string stopped = "stopping as asked, after step ";
  const std::string first = log_saying(on, 1, stopped, patience);
  CHECK_THAT(first, Catch::Contains("the time of this attempt ends at "));
  const std::string step = std::to_string(std::stoi(first.substr(first.find(stopped) + stopped.size())));
  log_saying(on, 2, "goes on after step " + step + " from ", patience);
  int starts = 0;
  for (const auto& entry : fs::directory_iterator(on.run / "journal")) {
    const std::string events = io::read_file(entry.path());
    starts += events.find("\"supervisor_started\"") != std::string::npos &&
              events.find("\"job\":\"pretrain\"") != std::string::npos;
  }
  CHECK(on.cluster.braise({"cancel", on.run}).status == 0);
  CHECK(on.wait().status == 1);
  CHECK(on.attempts() == 2);
  return starts;
}

TEST_CASE("a training stops by itself before Slurm ends its job, and goes on in the next") {
  NEEDS_SLURM();
  OnCluster on(training(1'000'000) + "slurm: {grace: 1s}\n");
  // Slurm counts minutes; an administrator may be more exact.
  on.cluster.add_to_site(
      "setup: ['[[ ${SLURM_RESTART_COUNT:-0} -gt 0 ]] || scontrol update JobId=$SLURM_JOB_ID EndTime=now+12']\n");
  REQUIRE(on.submit().status == 0);
  CHECK(starts_until_second(on, 60s) == 2);
}

/// Gives the job that runs another time limit, as scontrol takes it.
void limit_running_job(const OnCluster& on, const std::string& minutes) {
  const std::string id = on.cluster.run({"squeue", "-h", "-t", "R", "-o", "%i"}).out;
  REQUIRE(on.cluster.run({"scontrol", "update", "JobId=" + id.substr(0, id.find('\n')), "TimeLimit=" + minutes})
              .status == 0);
}

// The longer form, with limits in minutes as users give them: test_slurm "[minutes]".
TEST_CASE("a training with a limit of a minute goes on in the next job", "[.minutes]") {
  NEEDS_SLURM();
  OnCluster on(training(1'000'000) + "slurm: {time: 1min, grace: 1s}\n");
  REQUIRE(on.submit().status == 0);
  CHECK(starts_until_second(on, 120s) == 2);
}

TEST_CASE("a training whose limit is raised goes on in the same job", "[.minutes]") {
  NEEDS_SLURM();
  OnCluster on(training(1'000'000) + "slurm: {time: 1min, grace: 1s}\n");
  REQUIRE(on.submit().status == 0);
  on.attempt_at_step(15);
  limit_running_job(on, "+5");
  CHECK(starts_until_second(on, 120s) == 1);
}

TEST_CASE("a training whose limit is lowered is told by Slurm, and goes on in the next job", "[.minutes]") {
  NEEDS_SLURM();
  OnCluster on(training(1'000'000) + "slurm: {time: 10min, grace: 30s}\n");
  REQUIRE(on.submit().status == 0);
  on.attempt_at_step(15);
  limit_running_job(on, "1");
  const std::string first = log_saying(on, 1, "stopping as asked, after step ", 120s);
  CHECK_THAT(first, !Catch::Contains("the time of this attempt ends at "));
  log_saying(on, 2, "goes on after step ", 60s);
  CHECK(on.cluster.braise({"cancel", on.run}).status == 0);
  CHECK(on.wait().status == 1);
}

TEST_CASE("a node that fails its check is kept off, and the job goes on elsewhere") {
  NEEDS_SLURM();
  OnCluster on(R"(recipe: 1
name: careful
resources: {host_memory: 64MiB, nodes: 2}
stages:
  letters: {kind: tokenize, input: letters.txt}
)");
  // Scratch is a folder of each node, which cannot be made on n1.
  const fs::path local = on.cluster.folder() / "local";
  fs::create_directory(local);
  io::write_file_durably(local / "n1", "in the way");
  on.cluster.add_to_site("preflight: true\nscratch: \"" + local.string() + "/$SLURMD_NODENAME\"\n");
  REQUIRE(on.submit().status == 0);
  const test::Finished ended = on.wait();
  INFO(on.story());
  CHECK(ended.status == 0);
  std::string events;
  for (const auto& entry : fs::directory_iterator(on.run / "journal")) events += io::read_file(entry.path());
  CHECK_THAT(events, Catch::Contains("\"off_nodes\":\"n1\"") && Catch::Contains("rank 0 on host n1: "));
  CHECK_THAT(on.node_of("letters"), !Catch::Contains("n1") && !Catch::Contains("[1"));
  // What was needed while it ran is gone; on n2 the first check was killed.
  CHECK(fs::is_empty(local / "n3"));
  CHECK(on.status().at("warnings").empty());
}

TEST_CASE("a job that Slurm has started twice is done by the latest start, and the other touches nothing of it") {
  NEEDS_SLURM();
  const int steps = 1000;  // on a quick machine, too, more than are done until the first learns of the second
  OnCluster on(training(steps));
  REQUIRE(on.submit().status == 0);
  on.attempt_at_step(15);
  // The same script once more, in the same Slurm job: with the environment of the one that runs.
  std::string pid;
  for (const auto& entry : fs::directory_iterator(on.run / "journal")) {
    if (!entry.path().filename().string().starts_with("slurm-")) continue;
    std::istringstream lines(io::read_file(entry.path()));
    for (std::string line; std::getline(lines, line);) {
      const json event = json::parse(line);
      if (event.at("event") == "supervisor_started" && event.at("job") == "pretrain") pid = event.at("pid").dump();
    }
  }
  std::vector<std::string> words = {"env", "-i"};
  std::istringstream variables(io::read_file("/proc/" + pid + "/environ"));
  for (std::string entry; std::getline(variables, entry, '\0');) words.push_back(entry);
  words.insert(words.end(), {test::program("braise"), "supervise", on.run, "1", "pretrain"});
  const test::Finished second = on.cluster.run(words);
  INFO(second.out << second.err);
  CHECK(second.status == 0);
  check_same(on, steps);
  CHECK(on.attempts() == 2);
  const json status = on.status();
  CHECK(status.at("jobs").at(1).at("attempts").at(0).at("state") == "lost");
  CHECK(status.at("jobs").at(1).at("attempts").at(1).at("state") == "completed");
  // What counts is the second's.
  CHECK_THAT(status.at("jobs").at(1).at("attempt_dir").get<std::string>(),
             Catch::StartsWith("jobs/pretrain/attempts/2-"));
}

TEST_CASE("ranks are started by mpirun where the site says so, and its last lines are run after each job") {
  NEEDS_SLURM();
  OnCluster on(R"(recipe: 1
name: others
resources: {host_memory: 64MiB}
stages:
  letters: {kind: tokenize, input: letters.txt}
  wide: {kind: check, duration: 10ms, memory_size: 1MiB, gemm_size: 32, resources: {nodes: 2, workers_per_node: 2}, after: [letters]}
)");
  const fs::path gone = on.cluster.folder() / "gone";
  on.cluster.add_to_site("mpi: {launcher: mpirun}\nteardown: ['echo $SLURM_JOB_ID >>" + gone.string() + "']\n");
  REQUIRE(on.submit().status == 0);
  const test::Finished ended = on.wait();
  INFO(on.story());
  REQUIRE(ended.status == 0);
  const json status = on.status();
  CHECK(status.at("state") == "completed");
  std::string ids;
  for (const json& job : status.at("jobs")) ids += job.at("slurm_job").get<std::string>() + "\n";
  // A job is completed by its journal a little before its Slurm job has ended.
  for (const Clock::time_point give_up = Clock::now() + 30s; Clock::now() < give_up;) {
    if (fs::exists(gone) && io::read_file(gone) == ids) break;
    std::this_thread::sleep_for(50ms);
  }
  CHECK(io::read_file(gone) == ids);
}

TEST_CASE("a sweep grows on Slurm without its old points being done again") {
  NEEDS_SLURM();
  const auto text = [](const std::string& sizes) {
    return R"(recipe: 1
name: grows
resources: {host_memory: 64MiB}
stages:
  letters: {kind: tokenize, input: letters.txt}
sweep: {stages.letters.shard_size: )" +
           sizes + "}\n";
  };
  OnCluster on(text("[4KiB, 8KiB]"));
  CHECK_THAT(on.submit().err, Catch::Contains("an array of 2"));
  REQUIRE(on.wait().status == 0);
  io::write_file_durably(on.recipe, text("[4KiB, 8KiB, 16KiB]"));
  const test::Finished submitted = on.submit();
  CHECK_THAT(submitted.err, Catch::Contains("letters: Slurm job") && !Catch::Contains("array"));
  const test::Finished ended = on.wait();
  INFO(on.story());
  CHECK(ended.status == 0);
  std::map<std::string, int> states;
  const json status = on.status();
  for (const json& job : status.at("jobs")) ++states[job.at("state")];
  CHECK(states == std::map<std::string, int>{{"completed", 1}, {"reused", 2}});
}

TEST_CASE("answers of sbatch that get lost make no job twice") {
  NEEDS_SLURM();
  OnCluster on(R"(recipe: 1
name: flaky
resources: {host_memory: 64MiB}
stages:
  a: {kind: check, duration: 10ms, memory_size: 1MiB, gemm_size: 32}
  b: {kind: check, duration: 10ms, memory_size: 1MiB, gemm_size: 32, after: [a]}
  c: {kind: check, duration: 10ms, memory_size: 1MiB, gemm_size: 32, after: [b]}
)");
  // Each first call does nothing, each second one submits and loses the answer, each third one is as it should be.
  const std::string counter = (on.cluster.folder() / "calls").string();
  const std::string sbatch = on.cluster.run({"bash", "-c", "command -v sbatch"}).out;
  const fs::path wrapped = on.cluster.folder() / "flaky/sbatch";
  fs::create_directory(wrapped.parent_path());
  io::write_file_durably(wrapped,
                         "#!/bin/bash\necho >>" + counter + "\nn=$(wc -l <" + counter +
                             ")\ncase $((n % 3)) in\n"
                             "1) echo 'sbatch: error: Batch job submission failed: Socket timed out' >&2; exit 1;;\n"
                             "2) " +
                             sbatch.substr(0, sbatch.find('\n')) +
                             " \"$@\" >/dev/null; echo 'sbatch: error: Zero Bytes were transmitted' >&2; exit 1;;\n"
                             "0) exec " +
                             sbatch.substr(0, sbatch.find('\n')) + " \"$@\";;\nesac\n");
  fs::permissions(wrapped, fs::perms::owner_all);
  const test::Finished submitted = on.submit(wrapped.parent_path());
  INFO(submitted.err);
  REQUIRE(submitted.status == 0);
  const test::Finished ended = on.wait();
  INFO(on.story());
  CHECK(ended.status == 0);
  const std::string all = on.cluster.run({"squeue", "-h", "-t", "all", "-o", "%k"}).out;
  std::set<std::string> comments;
  int count = 0;
  for (std::istringstream lines(all); lines.good();) {
    std::string line;
    if (!std::getline(lines, line)) break;
    ++count;
    comments.insert(line);
  }
  CHECK(count == 3);
  CHECK(comments.size() == 3);
  for (const char* job : {"a", "b", "c"}) {
    CHECK(std::distance(fs::directory_iterator(on.run / "jobs" / job / "attempts"), fs::directory_iterator()) == 1);
  }
}

TEST_CASE("a run folder whose name is full of shell goes through Slurm and runs nothing") {
  NEEDS_SLURM();
  OnCluster on(R"(recipe: 1
name: quoted
resources: {host_memory: 64MiB}
stages:
  a: {kind: check, duration: 10ms, memory_size: 1MiB, gemm_size: 32}
)");
  for (const char* name :
       {"it's $(touch PWNED) `touch PWNED`; touch PWNED & \"x\" # \n#SBATCH --bad\n*", "100%x %j%%", "a\\b %j\\\\"}) {
    on.runs = on.cluster.folder() / name;
    const test::Finished submitted = on.submit();
    INFO(submitted.err);
    REQUIRE(submitted.status == 0);
    // The folder's name has line breaks in it, so it is looked up rather than read from the last line.
    for (const auto& entry : fs::directory_iterator(on.runs)) {
      if (entry.path().filename().string().starts_with("quoted-")) on.run = entry.path();
    }
    const test::Finished ended = on.wait();
    INFO(on.story());
    CHECK(ended.status == 0);
    // What the job printed is in the run's folder, and nowhere else.
    int logs = 0;
    for (const auto& entry : fs::directory_iterator(on.run / "slurm/1")) logs += entry.path().extension() == ".txt";
    CHECK(logs == 1);
  }
  for (const auto& entry : fs::recursive_directory_iterator(on.cluster.folder())) {
    CHECK(entry.path().filename() != "PWNED");
  }
}

}  // namespace
}  // namespace braise
