// SPDX-License-Identifier: Apache-2.0
// Workers under mpirun, end to end, in a run directory made by hand.
#include <signal.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <fstream>

#include "kernels/core/tier.h"
#include "stages/api/heartbeat.h"
#include "stages/shared/hdf5/hdf5_file.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/shared/io/json_lines.h"
#include "tests/mpi/mpirun.h"
#include "tests/support/schema.h"

namespace braise {
namespace {
namespace fs = std::filesystem;

using Catch::Contains;
using test::Background;
using test::Finished;
using test::HandMadeRun;
using test::wait_until;

const fs::path kDevil = "/usr/share/dictd/devil.dict.dz";
const fs::path kFoldoc = "/usr/share/dictd/foldoc.dict.dz";

const fs::path kGcide = "/usr/share/dictd/gcide.dict.dz";

nlohmann::json tokenize_config(int shard_size) {
  return {{"input", "a job's files stand in `inputs`"},
          {"format", "auto"},
          {"text_key", "text"},
          {"documents", "paragraph"},
          {"tokenizer", {{"kind", "bytes"}, {"end_of_document", true}}},
          {"validation", {{"fraction", 0.1}, {"take", "documents"}}},
          {"shard_size", shard_size}};
}

bool is_valid(const char* schema_name, const nlohmann::json& json) {
  return test::schema_faults(json, schema_name).empty();
}

/// The digests that a completed attempt recorded, by path; each is checked against its file.
std::map<std::string, std::string> digests_of(const HandMadeRun& run, const fs::path& attempt) {
  std::map<std::string, std::string> digests;
  const nlohmann::json end = run.end_of(attempt);
  INFO(end.dump());
  REQUIRE(end.at("event") == "stage_completed");
  for (const auto& [name, output] : end.at("outputs").items()) {
    for (const nlohmann::json& file : output.at("files")) {
      const fs::path path = attempt / file.at("path").get<std::string>();
      CHECK(io::digest_file(path).sha256 == file.at("sha256"));
      struct stat status {};
      REQUIRE(::stat(path.c_str(), &status) == 0);
      CHECK((status.st_mode & 0222) == 0);
      digests[file.at("path")] = file.at("sha256");
    }
  }
  return digests;
}

/// Those of an attempt that nothing disturbed, on one rank.
std::map<std::string, std::string> undisturbed_digests(int shard_size, const std::vector<fs::path>& inputs) {
  HandMadeRun run("tokenize", 1, tokenize_config(shard_size), inputs);
  const fs::path attempt = run.new_attempt();
  const Finished finished = run.run(attempt);
  INFO(finished.err);
  REQUIRE(finished.status == 0);
  return digests_of(run, attempt);
}

int shards_in(const fs::path& attempt) {
  int shards = 0;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(attempt / "artifacts", missing)) {
    shards += entry.path().extension() == ".json" ? 1 : 0;
  }
  return shards;
}

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

std::string logs_of(const fs::path& attempt, int ranks) {
  std::string text;
  for (int r = 0; r < ranks; ++r) text += io::read_file(attempt / ("log." + std::to_string(r) + ".txt"));
  return text;
}

// A job that takes a second or two, so that it can be disturbed: some 300 shards.
constexpr int kSmallShards = 128 * 1024;
const std::vector<fs::path> kLargeInputs = {kGcide};

TEST_CASE("token files are the same to the byte on 1, 2 and 4 ranks") {
  constexpr int kShardSize = 256 * 1024;
  const std::map<std::string, std::string> expected = undisturbed_digests(kShardSize, {kFoldoc, kDevil});
  CHECK(expected.size() > 20);
  for (const int ranks : {2, 4}) {
    HandMadeRun run("tokenize", ranks, tokenize_config(kShardSize), {kFoldoc, kDevil});
    const fs::path attempt = run.new_attempt();
    const Finished finished = run.run(attempt);
    INFO(finished.err);
    REQUIRE(finished.status == 0);
    CHECK(finished.out.empty());
    CHECK(digests_of(run, attempt) == expected);

    // What else an attempt leaves.
    const nlohmann::json events = run.events_of(attempt);
    REQUIRE(events.size() == 2);
    for (const nlohmann::json& event : events) CHECK(is_valid("event.schema.json", event));
    CHECK(events[0].at("event") == "worker_started");
    CHECK(events[0].at("pids").size() == static_cast<std::size_t>(ranks));
    CHECK(events[0].at("tiers") ==
          std::vector<std::string>(static_cast<std::size_t>(ranks), std::string(core::name(core::detected_tier()))));
    CHECK(events[0].at("attempt") == 1);
    CHECK(events[0].at("token") == "000001");
    const io::JsonLines metrics = io::read_json_lines(attempt / "metrics.jsonl");
    REQUIRE(metrics.objects.size() >= 2);
    for (const nlohmann::json& line : metrics.objects) CHECK(is_valid("metrics.schema.json", line));
    CHECK(metrics.objects.back().at("step") == expected.size() - 1);
    CHECK(stages::read_heartbeats(attempt).size() == static_cast<std::size_t>(ranks));
    CHECK(count(logs_of(attempt, ranks), " info completed\n") == ranks);
    CHECK_FALSE(fs::exists(run.path() / "scratch" / "job-1-000001"));
  }
}

TEST_CASE("others can read the master file") {
  HandMadeRun run("tokenize", 2, tokenize_config(256 * 1024), {kFoldoc, kDevil});
  const fs::path attempt = run.new_attempt();
  REQUIRE(run.run(attempt).status == 0);
  const fs::path master = attempt / "artifacts/tokens.h5";
  const hdf5::Reader reader(master);
  const std::uint64_t tokens = reader.info("/train/tokens").elements;
  // The end of the last shard: read from another folder than the file's, as a stranger would.
  const Finished dump = test::run_program(
      {"h5dump", "-d", "/train/tokens", "-s", std::to_string(tokens - 6), "-c", "6", "-w", "0", master}, {}, "/");
  REQUIRE(dump.status == 0);
  std::string expected;
  for (const std::uint64_t token : reader.read("/train/tokens", tokens - 6, 6)) {
    expected += (expected.empty() ? "" : ", ") + std::to_string(token);
  }
  CHECK_THAT(dump.out, Contains(": " + expected + "\n"));
  CHECK_THAT(expected, Catch::EndsWith(", 256"));
}

TEST_CASE("a rank killed with SIGKILL ends the attempt, and the next one goes on to the same outputs") {
  const std::map<std::string, std::string> expected = undisturbed_digests(kSmallShards, kLargeInputs);
  HandMadeRun run("tokenize", 2, tokenize_config(kSmallShards), kLargeInputs);
  const fs::path first = run.new_attempt();
  {
    Background mpirun(run.command(first));
    REQUIRE(wait_until([&] { return shards_in(first) >= 20; }));
    ::kill(run.events_of(first)[0].at("pids")[1].get<pid_t>(), SIGKILL);
    CHECK(mpirun.wait().status != 0);
  }
  CHECK(run.events_of(first).size() == 1);
  CHECK(shards_in(first) < static_cast<int>(expected.size()) - 1);

  run.set_ranks(3);
  const fs::path second = run.new_attempt();
  const Finished finished = run.run(second);
  INFO(finished.err);
  REQUIRE(finished.status == 0);
  CHECK(digests_of(run, second) == expected);
  CHECK(count(logs_of(second, 3), "taken over from attempt 1-000001") >= 20);
}

TEST_CASE("ranks die with mpirun, even where it is killed with SIGKILL") {
  HandMadeRun run("tokenize", 2, tokenize_config(kSmallShards), kLargeInputs);
  const fs::path attempt = run.new_attempt();
  Background mpirun(run.command(attempt));
  REQUIRE(wait_until([&] { return shards_in(attempt) >= 1; }));
  const auto pids = run.events_of(attempt)[0].at("pids").get<std::vector<pid_t>>();
  REQUIRE(pids.size() == 2);
  CHECK(test::is_running(pids[0]));
  mpirun.signal(SIGKILL);
  mpirun.wait();
  CHECK(wait_until([&] { return !test::is_running(pids[0]) && !test::is_running(pids[1]); }));
}

TEST_CASE("USR2 through mpirun, or TERM to a single rank, stops all in a state that goes on") {
  const std::map<std::string, std::string> expected = undisturbed_digests(kSmallShards, kLargeInputs);
  const bool through_mpirun = GENERATE(true, false);
  HandMadeRun run("tokenize", 2, tokenize_config(kSmallShards), kLargeInputs);
  const fs::path first = run.new_attempt();
  {
    Background mpirun(run.command(first));
    REQUIRE(wait_until([&] { return shards_in(first) >= 10; }));
    if (through_mpirun) {
      mpirun.signal(SIGUSR2);
      mpirun.signal(SIGUSR2);
    } else {
      ::kill(run.events_of(first)[0].at("pids")[1].get<pid_t>(), SIGTERM);
    }
    const Finished finished = mpirun.wait();
    INFO(finished.err);
    CHECK(finished.status == 0);
  }
  CHECK(run.end_of(first).at("event") == "stage_stopped");
  CHECK(is_valid("event.schema.json", run.end_of(first)));
  CHECK(shards_in(first) < static_cast<int>(expected.size()) - 1);
  CHECK_FALSE(fs::exists(first / "artifacts/tokens.h5"));

  const fs::path second = run.new_attempt();
  REQUIRE(run.run(second).status == 0);
  CHECK(digests_of(run, second) == expected);
  CHECK(count(logs_of(second, 2), "taken over from attempt 1-000001") >= 10);
}

TEST_CASE("USR1 asks for a checkpoint, and the job goes on to its end") {
  HandMadeRun run("tokenize", 2, tokenize_config(kSmallShards), kLargeInputs);
  const fs::path attempt = run.new_attempt();
  Background mpirun(run.command(attempt));
  REQUIRE(wait_until([&] { return shards_in(attempt) >= 5; }));
  mpirun.signal(SIGUSR1);
  const Finished finished = mpirun.wait();
  INFO(finished.out << finished.err);
  CHECK(finished.status == 0);
  CHECK(run.end_of(attempt).at("event") == "stage_completed");
  // At the same poll on both ranks, if the signal came before the last.
  const std::string logs = logs_of(attempt, 2);
  CHECK(count(logs, "checkpoint: ") == 2);
}

TEST_CASE("a rank that fails names itself and ends all ranks at once") {
  // The larger file is rank 0's to scan, the smaller rank 1's, which finds it changed.
  const test::TemporaryFolder inputs;
  const fs::path large = inputs.write("large.txt", std::string(20'000'000, 'x'));
  const fs::path small = inputs.write("small.txt", "as planned");
  HandMadeRun run("tokenize", 2, tokenize_config(4096), {large, small});
  inputs.write("small.txt", "otherwise!");
  const fs::path attempt = run.new_attempt();
  const auto start = std::chrono::steady_clock::now();
  const Finished finished = run.run(attempt);
  CHECK(finished.status == 1);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(20));
  CHECK_THAT(finished.err, Contains("braise-worker: rank 1 on host ") && Contains("stages/tokenize/corpus.cpp:") &&
                               Contains("small.txt has changed since the job was planned") &&
                               Contains(io::sha256("as planned")) && Contains(io::sha256("otherwise!")));
  const nlohmann::json failure = nlohmann::json::parse(io::read_file(attempt / "failure.1.json"));
  CHECK(failure.at("rank") == 1);
  CHECK_THAT(failure.at("place").get<std::string>(), Contains("stages/tokenize/corpus.cpp:"));
  CHECK_THAT(io::read_file(attempt / "log.1.txt"), Contains(" error rank 1 on host "));
  CHECK(run.events_of(attempt).size() == 1);
}

TEST_CASE("what rank 0 sees is in the journal too") {
  const test::TemporaryFolder inputs;
  const std::string packed = io::read_file(kFoldoc);
  const fs::path truncated = inputs.write("cut.dict.dz", packed.substr(0, packed.size() / 2));
  HandMadeRun run("tokenize", 2, tokenize_config(4096), {truncated});
  const fs::path attempt = run.new_attempt();
  CHECK(run.run(attempt).status == 1);
  const nlohmann::json end = run.end_of(attempt);
  CHECK(is_valid("event.schema.json", end));
  CHECK(end.at("event") == "stage_failed");
  CHECK(end.at("rank") == 0);
  CHECK(end.at("message") ==
        truncated.string() + ": gzip data is truncated at byte " + std::to_string(packed.size() / 2));
  CHECK(fs::exists(attempt / "failure.0.json"));

  std::string flipped = packed;
  flipped[flipped.size() / 2] = static_cast<char>(~flipped[flipped.size() / 2]);
  HandMadeRun second("tokenize", 1, tokenize_config(4096), {inputs.write("bad.dict.dz", flipped)});
  const fs::path second_attempt = second.new_attempt();
  CHECK(second.run(second_attempt).status == 1);
  CHECK_THAT(second.end_of(second_attempt).at("message").get<std::string>(),
             Contains("bad.dict.dz: gzip data is corrupt"));
}

TEST_CASE("a stopped rank is found hung and named") {
  HandMadeRun run("tokenize", 2, tokenize_config(kSmallShards), kLargeInputs);
  const fs::path attempt = run.new_attempt();
  Background mpirun(run.command(attempt));
  REQUIRE(wait_until([&] { return shards_in(attempt) >= 1; }));
  const pid_t victim = run.events_of(attempt)[0].at("pids")[1];
  ::kill(victim, SIGSTOP);
  std::vector<stages::Heartbeat> hung;
  CHECK(wait_until([&] {
    hung = stages::hung_ranks(stages::read_heartbeats(attempt), io::utc_us(), 3'000'000);
    return !hung.empty();
  }));
  REQUIRE(hung.size() == 1);
  CHECK(hung[0].rank == 1);
  CHECK(hung[0].pid == victim);
  ::kill(victim, SIGCONT);
  const Finished finished = mpirun.wait();
  INFO(finished.out << finished.err);
  CHECK(finished.status == 0);
}

TEST_CASE("what is not a job, or not this build's, is refused with status 2") {
  HandMadeRun run("tokenize", 1, tokenize_config(4096), {kDevil});
  const fs::path attempt = run.new_attempt();
  const auto fails_with = [&](const std::string& message) {
    const Finished finished = test::run_program({test::program("braise-worker"), run.job_file(), "--attempt", attempt},
                                                test::mpi_environment());
    CHECK(finished.status == 2);
    CHECK_THAT(finished.err, Contains("braise-worker: ") && Contains(message));
    CHECK(run.events_of(attempt).empty());
  };
  const std::string good = io::read_file(run.job_file());
  const auto write = [&](const std::string& text) { std::ofstream(run.job_file(), std::ios::trunc) << text; };
  write(good.substr(0, good.size() / 2));
  fails_with("job.yaml");
  const Finished under_mpirun = run.run(attempt);
  CHECK(under_mpirun.status == 2);
  CHECK_THAT(under_mpirun.err, Contains("braise-worker: ") && Contains("job.yaml"));
  write("");
  fails_with("job.yaml");
  write("job: 1\nname: job\n");
  fails_with("job.yaml");
  fs::remove(run.job_file());
  fails_with("job.yaml: No such file");

  run.job().kind = "nonsense";
  run.write_job();
  fails_with("this build has no stage kind 'nonsense'");
  run.job().kind = "tokenize";
  run.job().kind_version = 99;
  run.write_job();
  fails_with("was planned for version 99 of kind tokenize");
  run.job().kind_version = 1;
  run.job().resources.device = "cuda";
  run.write_job();
  fails_with("does not run on device 'cuda'");
  run.set_ranks(1);
  fs::remove(attempt);
  fails_with("is not the folder of an attempt");

  for (const std::vector<std::string>& arguments : {std::vector<std::string>{},
                                                    {"job.yaml"},
                                                    {"job.yaml", "--attempt", "x", "--unknown"},
                                                    {"job.yaml", "--attempt"}}) {
    std::vector<std::string> command = {test::program("braise-worker")};
    command.insert(command.end(), arguments.begin(), arguments.end());
    CHECK(test::run_program(command).status == 2);
  }
  const Finished version = test::run_program({test::program("braise-worker"), "--version"});
  CHECK(version.status == 0);
  CHECK(nlohmann::json::parse(version.out).contains("onednn"));
}

TEST_CASE("as many ranks as the job wants, and one start an attempt") {
  HandMadeRun run("tokenize", 2, tokenize_config(1 << 20), {kDevil});
  const fs::path attempt = run.new_attempt();
  std::vector<std::string> command = run.command(attempt);
  command[2] = "1";
  const Finished too_few = test::run_program(command, test::mpi_environment());
  CHECK(too_few.status == 1);
  CHECK_THAT(too_few.err, Contains("MPI has started 1 ranks, but job 'job' is for 2"));

  REQUIRE(run.run(attempt).status == 0);
  const Finished again = run.run(attempt);
  CHECK(again.status == 1);
  CHECK_THAT(again.err, Contains("this attempt has been started before"));
  CHECK(run.end_of(attempt).at("event") == "stage_completed");
}

TEST_CASE("ranks that have another job or another build are refused before they begin") {
  HandMadeRun run("tokenize", 2, tokenize_config(1 << 20), {kDevil}),
      other("tokenize", 2, tokenize_config(1 << 20), {});
  const fs::path attempt = run.new_attempt();
  /// What becomes of a rank of the job, and beside it one of this program, job and attempt.
  const auto with_rank = [&](const fs::path& program, const fs::path& job, const fs::path& its_attempt) {
    std::vector<std::string> command = run.command(attempt);
    command[2] = "1";
    command.insert(command.end(), {":", "-n", "1", program, job, "--attempt", its_attempt});
    const Finished finished = test::run_program(command, test::mpi_environment());
    CHECK(finished.status == 1);
    CHECK(run.events_of(attempt).empty());
    return finished.err;
  };
  const fs::path worker = test::program("braise-worker");
  CHECK_THAT(with_rank(worker, other.job_file(), other.new_attempt()),
             Contains("rank 1 (host ") && Contains("has read another job.yaml"));

  // The same program, but for a bit of its build id.
  std::string program = io::read_file(worker);
  const std::string note("\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0", 16);
  const std::size_t id = program.find(note);
  REQUIRE(id != std::string::npos);
  program[id + note.size()] ^= 1;
  const fs::path changed = run.path() / "braise-worker";
  std::ofstream(changed) << program;
  fs::permissions(changed, fs::perms::owner_all);
  CHECK_THAT(with_rank(changed, run.job_file(), attempt),
             Contains("rank 1 (host ") && Contains("runs another build of braise-worker"));
}

TEST_CASE("two ranks measure the machine, as the schema says") {
  HandMadeRun run("check", 2,
                  {{"duration", 0.1},
                   {"message_size", 65536},
                   {"memory_size", 1 << 24},
                   {"gemm_size", 128},
                   {"scratch_size", 65536},
                   {"free_memory", 1 << 20},
                   {"free_disk", 1 << 20}},
                  {});
  run.job().kind_version = 2;
  run.write_job();
  const fs::path attempt = run.new_attempt();
  const Finished finished = run.run(attempt);
  INFO(finished.err);
  REQUIRE(finished.status == 0);
  CHECK(digests_of(run, attempt).size() == 1);
  const nlohmann::json machine = nlohmann::json::parse(io::read_file(attempt / "artifacts/machine.json"));
  CHECK(is_valid("machine.schema.json", machine));
  CHECK(machine.at("ranks").size() == 2);
  CHECK(machine.at("ranks")[1].at("rank") == 1);
  CHECK(machine.at("hosts").size() == 1);
  CHECK(machine.at("network").at("barrier_s").get<double>() > 0);
  CHECK(machine.at("network").at("all_to_all_bytes_per_s").get<double>() > 0);
}

TEST_CASE("job.yaml is as its schema says") {
  HandMadeRun run("check", 2, nlohmann::json::object(), {kDevil});
  CHECK(is_valid("job.schema.json", run.job().to_json()));
  run.job().fingerprint.clear();
  CHECK_FALSE(is_valid("job.schema.json", run.job().to_json()));
}

}  // namespace
}  // namespace braise
