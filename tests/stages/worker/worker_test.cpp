// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <thread>

#include "kernels/comm/transport.h"
#include "kernels/core/error.h"
#include "stages/api/heartbeat.h"
#include "stages/registry.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/worker/agreement.h"
#include "stages/worker/attempt.h"
#include "stages/worker/context.h"
#include "stages/worker/failure.h"
#include "stages/worker/heartbeat_thread.h"
#include "stages/worker/job_journal.h"
#include "stages/worker/metrics.h"
#include "stages/worker/outputs.h"
#include "stages/worker/rank_log.h"
#include "stages/worker/signals.h"
#include "stages/worker/stage_table.h"
#include "stages/worker/tier.h"
#include "stages/worker/versions.h"
#include "tests/support/support.h"

namespace braise::worker {
namespace {
namespace fs = std::filesystem;

using Catch::Contains;
using test::TemporaryFolder;

fs::path make_attempt(const TemporaryFolder& folder, const std::string& name) {
  const fs::path path = folder.path() / "jobs/pre.3/attempts" / name;
  fs::create_directories(path);
  fs::create_directories(folder.path() / "journal");
  return path;
}

TEST_CASE("an attempt's places are worked out from its two paths") {
  const TemporaryFolder folder;
  for (const char* name : {"1-aaaaaa", "2-bbbbbb", "9-cccccc", "12-dddddd", "notes", "10-", "-x", "0-zero"})
    make_attempt(folder, name);
  folder.write("jobs/pre.3/attempts/3-file", "not a folder");
  const fs::path job_file = folder.path() / "jobs/pre.3/job.yaml";
  const Attempt attempt = attempt_at(job_file, folder.path() / "jobs/pre.3/attempts/10-abc123/../12-dddddd/", "pre.3");
  CHECK(attempt.run_dir == folder.path());
  CHECK(attempt.dir == folder.path() / "jobs/pre.3/attempts/12-dddddd");
  CHECK(attempt.number == 12);
  CHECK(attempt.token == "dddddd");
  CHECK(attempt.scratch_dir == folder.path() / "scratch/pre.3-12-dddddd");
  CHECK(attempt.journal == folder.path() / "journal/pre.3-12-dddddd.jsonl");
  const fs::path attempts = folder.path() / "jobs/pre.3/attempts";
  CHECK(attempt.earlier == std::vector<fs::path>{attempts / "9-cccccc", attempts / "2-bbbbbb", attempts / "1-aaaaaa"});
}

TEST_CASE("folders that do not lie as they should are refused") {
  const TemporaryFolder folder;
  const fs::path good = make_attempt(folder, "1-aaaaaa");
  const fs::path job_file = folder.path() / "jobs/pre.3/job.yaml";
  CHECK_NOTHROW(attempt_at(job_file, good, "pre.3"));
  CHECK_THROWS_WITH(attempt_at(job_file, good, "other"), Contains("must lie in <run>/jobs/other"));
  CHECK_THROWS_WITH(attempt_at(folder.path() / "pre.3/job.yaml", good, "pre.3"), Contains("must lie in"));
  for (const fs::path& bad : {good.parent_path() / "2-missing", good.parent_path(), folder.path(), fs::path("/")}) {
    CHECK_THROWS_WITH(attempt_at(job_file, bad, "pre.3"), Contains("is not the folder of an attempt"));
  }
}

TEST_CASE("places of the run are put into a configuration, and nothing else is touched") {
  Attempt attempt;
  attempt.run_dir = "/runs/r";
  attempt.scratch_dir = "/runs/r/scratch/j-1-a";
  nlohmann::json config = {
      {"a", "${run.dir}/jobs/x"}, {"b", {{{"c", "${run.scratch}"}}, 5, nullptr}}, {"d", "no ${run.dir}"}};
  put_in_places(config, attempt);
  CHECK(config == nlohmann::json{{"a", "/runs/r/jobs/x"},
                                 {"b", {{{"c", "/runs/r/scratch/j-1-a"}}, 5, nullptr}},
                                 {"d", "no ${run.dir}"}});
}

TEST_CASE("metrics are lines as their schema says, and others are refused") {
  const TemporaryFolder folder;
  Metrics metrics(folder.path() / "metrics.jsonl");
  metrics.append({{"step", 3}, {"steps", 5}, {"rate", 1.5}, {"unit", "bytes/s"}, {"values", {{"loss", 2}}}});
  CHECK_THROWS_WITH(metrics.append({{"loss", 3}}), Contains("loss"));
  CHECK_THROWS_AS(metrics.append({{"step", -1}}), core::Error);
  CHECK_THROWS_AS(metrics.append({{"step", "3"}}), core::Error);
  CHECK_THROWS_AS(metrics.append({{"rate", 1}}), core::Error);
  CHECK_THROWS_AS(metrics.append({{"values", {{"name", "text"}}}}), core::Error);
  const io::JsonLines lines = io::read_json_lines(folder.path() / "metrics.jsonl");
  REQUIRE(lines.objects.size() == 1);
  CHECK(lines.objects[0].at("time").get<std::string>().size() == 27);
  CHECK(lines.objects[0].at("step") == 3);
}

TEST_CASE("an attempt's journal has its events in order, and is begun once only") {
  const TemporaryFolder folder;
  const fs::path dir = make_attempt(folder, "2-abc123");
  const Attempt attempt = attempt_at(folder.path() / "jobs/pre.3/job.yaml", dir, "pre.3");
  JobJournal journal(attempt, "pre.3");
  journal.append("worker_started", {{"ranks", 2}});
  journal.append("stage_stopped", nlohmann::json::object());
  const io::JsonLines lines = io::read_json_lines(attempt.journal);
  REQUIRE(lines.objects.size() == 2);
  CHECK(lines.objects[0].at("event") == "worker_started");
  CHECK(lines.objects[0].at("ranks") == 2);
  CHECK(lines.objects[1].at("event") == "stage_stopped");
  for (int seq = 0; seq < 2; ++seq) {
    const nlohmann::json& event = lines.objects[static_cast<std::size_t>(seq)];
    CHECK(event.at("seq") == seq);
    CHECK(event.at("writer") == "pre.3-2-abc123");
    CHECK(event.at("job") == "pre.3");
    CHECK(event.at("attempt") == 2);
    CHECK(event.at("token") == "abc123");
  }
  CHECK_THROWS_WITH(JobJournal(attempt, "pre.3"), Contains("this attempt has been started before"));
  CHECK(io::read_json_lines(attempt.journal).objects.size() == 2);
}

/// Of an attempt numbered 3 after the attempts 1 and 2, of which the second never came to start.
core::Tier chosen(const TemporaryFolder& folder, const std::string& recorded, const nlohmann::json& config,
                  std::string& log, int rank = 0) {
  const fs::path job_file = folder.path() / "jobs/pre.3/job.yaml";
  const auto attempt = [&](const std::string& name) {
    return attempt_at(job_file, make_attempt(folder, name), "pre.3");
  };
  JobJournal(attempt("1-aaaaaa"), "pre.3").append("worker_started", {{"tiers", {recorded, "baseline"}}});
  attempt("2-bbbbbb");
  stages::JobSpec job;
  job.job = "pre.3";
  job.config = config;
  return choose_tier(job, attempt("3-cccccc"), rank, [&](const std::string& line) { log += line + "\n"; });
}

TEST_CASE("a worker goes on with the instruction-set tier of the attempt before") {
  const TemporaryFolder folder;
  std::string log;
  CHECK(chosen(folder, "avx2", nlohmann::json::object(), log) == std::min(core::Tier::kAvx2, core::detected_tier()));
  CHECK(log.empty());
}

TEST_CASE("each rank goes on with its own tier, and one more with the last's") {
  const TemporaryFolder folder;
  std::string log;
  CHECK(chosen(folder, "avx2", {{"numerics", {{"tier", "auto"}}}}, log, 2) == core::Tier::kBaseline);
}

TEST_CASE("a pinned instruction-set tier goes before that of the attempt before") {
  const TemporaryFolder folder;
  std::string log;
  CHECK(chosen(folder, "avx2", {{"numerics", {{"tier", "baseline"}}}}, log) == core::Tier::kBaseline);
}

TEST_CASE("a tier that the processor lacks is refused where it is pinned, and told of where it was recorded") {
  if (core::detected_tier() == core::Tier::kAmx) return;  // it lacks none
  std::string log;
  {
    const TemporaryFolder folder;
    CHECK_THROWS_WITH(chosen(folder, "avx2", {{"numerics", {{"tier", "amx"}}}}, log),
                      Contains("numerics.tier is amx, which this processor lacks: it has "));
  }
  const TemporaryFolder folder;
  CHECK(chosen(folder, "amx", nlohmann::json::object(), log) == core::detected_tier());
  CHECK_THAT(log, Contains("had instruction-set tier amx, which this processor lacks"));
}

TEST_CASE("a heartbeat is told at once, every second, and at the end") {
  const TemporaryFolder folder;
  {
    HeartbeatThread thread(folder.path(), 3, "n1");
    const auto first = stages::read_heartbeats(folder.path());
    REQUIRE(first.size() == 1);
    CHECK(first[0].operation == "start");
    CHECK(first[0].pid == ::getpid());
    thread.operation("write shard 3");
    CHECK(thread.operation() == "write shard 3");
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    const auto second = stages::read_heartbeats(folder.path());
    REQUIRE(second.size() == 1);
    CHECK(second[0].operation == "write shard 3");
    CHECK(second[0].beat_us > first[0].beat_us);
    CHECK(second[0].operation_us < second[0].beat_us);
    thread.operation("end");
  }
  CHECK(stages::read_heartbeats(folder.path()).at(0).operation == "end");
}

TEST_CASE("a log has a line an entry, written when it is made") {
  const TemporaryFolder folder;
  RankLog log(folder.path() / "log.0.txt");
  log.info("braces {} and percents %d stay");
  log.error("bad");
  const std::string text = io::read_file(folder.path() / "log.0.txt");
  CHECK_THAT(text, Catch::Matches(
                       "\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{6}Z info braces \\{\\} and percents %d stay\n"
                       "\\S+ error bad\n"));
  CHECK_THROWS_WITH(RankLog(folder.path() / "log.0.txt" / "x"), Contains("cannot write the log"));
}

TEST_CASE("outputs are checked and made read-only") {
  const TemporaryFolder folder;
  const fs::path file = folder.write("artifacts/a.h5", "12345");
  const std::vector<stages::OutputDeclaration> declared = {{"tokens", "artifacts/a.h5", ""}};
  const auto output = [](const std::string& path, std::uint64_t bytes) {
    return stages::Outputs{{"tokens", {{{path, bytes, io::sha256("12345")}}}}};
  };
  CHECK_THROWS_WITH(seal_outputs(folder.path(), declared, {}), Contains("did not leave its output `tokens`"));
  CHECK_THROWS_WITH(seal_outputs(folder.path(), declared, output("artifacts/b.h5", 5)), Contains("artifacts/a.h5"));
  CHECK_THROWS_WITH(seal_outputs(folder.path(), declared, output("artifacts/a.h5", 6)),
                    Contains("has 5 bytes, not the 6"));
  seal_outputs(folder.path(), declared, output("artifacts/a.h5", 5));
  struct stat status {};
  REQUIRE(::stat(file.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0444);
  fs::remove(file);
  CHECK_THROWS_WITH(seal_outputs(folder.path(), declared, output("artifacts/a.h5", 5)), Contains("output is missing"));
}

TEST_CASE("a failure tells rank, host, place and what happened") {
  const TemporaryFolder folder;
  const auto failure_of = [](const auto& action) {
    try {
      action();
    } catch (...) {
      return current_failure(2, "n1");
    }
    return Failure();
  };
  const Failure failure = failure_of([] { throw core::Error("disk on fire"); });
  CHECK_THAT(failure.to_string(),
             Catch::Matches("rank 2 on host n1: tests/stages/worker/worker_test\\.cpp:\\d+: disk on fire"));
  record_failure(folder.path(), failure);
  const nlohmann::json json = nlohmann::json::parse(io::read_file(folder.path() / "failure.2.json"));
  CHECK(json.at("rank") == 2);
  CHECK(json.at("host") == "n1");
  CHECK(json.at("pid") == ::getpid());
  CHECK_THAT(json.at("place").get<std::string>(), Contains("worker_test.cpp"));
  CHECK(json.at("message") == "disk on fire");
  CHECK(failure_of([] { throw std::runtime_error("odd"); }).to_string() == "rank 2 on host n1: odd");
  CHECK(failure_of([] { throw std::bad_alloc(); }).message == "out of memory");
  CHECK(failure_of([] { throw 5; }).message == "an exception of unknown type");
}

/// Two ranks, of which the other says what it is told to.
class TwoRanks final : public comm::Communicator {
 public:
  std::string other_;
  std::int64_t other_max_ = 0;
  int rank() const override { return 0; }
  int size() const override { return 2; }
  void barrier() override {}
  void all_gather(std::span<const std::byte>, std::span<std::byte>) override {}
  std::vector<std::string> all_gather(const std::string& mine) override { return {mine, other_}; }
  std::string broadcast(const std::string& bytes, int) override { return bytes; }
  std::int64_t all_max(std::int64_t value) override { return std::max(value, other_max_); }
  void all_to_all(std::span<const std::byte>, std::span<std::byte>, std::size_t) override {}
  std::unique_ptr<Communicator> split(std::span<const int>) override { return nullptr; }
  std::unique_ptr<comm::Transport> transport() override { return nullptr; }
};

TEST_CASE("ranks that differ in number, job or program are named") {
  stages::JobSpec job;
  job.job = "pre";
  job.resources.nodes = 1;
  job.resources.workers_per_node = 2;
  const RankFacts mine = {"n1", 1, "job", "build"};
  CHECK_THROWS_WITH(agree(*comm::single(), job, mine), Contains("MPI has started 1 ranks, but job 'pre' is for 2"));
  TwoRanks comm;
  comm.other_ = R"(["n2", 2, "job", "build"])";
  const std::vector<RankFacts> all = agree(comm, job, mine);
  REQUIRE(all.size() == 2);
  CHECK(all[1].host == "n2");
  CHECK(all[1].pid == 2);
  comm.other_ = R"(["n2", 2, "another", "build"])";
  CHECK_THROWS_WITH(agree(comm, job, mine),
                    Contains("rank 1 (host n2) has read another job.yaml than rank 0 (host n1)"));
  comm.other_ = R"(["n2", 2, "job", "another"])";
  CHECK_THROWS_WITH(agree(comm, job, mine), Contains("rank 1 (host n2) runs another build"));
}

TEST_CASE("a node's scratch folder is found by the variables of its environment") {
  Attempt attempt;
  attempt.run_dir = "/runs/r";
  attempt.dir = "/runs/r/jobs/a/attempts/2-abcdef";
  attempt.scratch_dir = "/runs/r/scratch/a-2-abcdef";
  ::setenv("BRAISE_TEST_ONE", "/local", 1);
  ::setenv("BRAISE_TEST_TWO", "12", 1);
  const auto used = [&](const std::string& folder) {
    Attempt mine = attempt;
    use_node_scratch(mine, folder, "a");
    CHECK(mine.node_scratch);
    return mine.scratch_dir.string();
  };
  CHECK(used("/tmp") == "/tmp/r-a-2-abcdef");
  CHECK(used("$BRAISE_TEST_ONE/x") == "/local/x/r-a-2-abcdef");
  CHECK(used("${BRAISE_TEST_ONE}/job$BRAISE_TEST_TWO") == "/local/job12/r-a-2-abcdef");
  CHECK_THROWS_WITH(used("/tmp/$BRAISE_TEST_NONE"),
                    Catch::Contains("there is no variable `BRAISE_TEST_NONE` on node "));
  CHECK_THROWS_WITH(used("${BRAISE_TEST_ONE"), Catch::Contains("no variable"));
  CHECK_THROWS_WITH(used("/tmp/$"), Catch::Contains("no variable"));
  CHECK_THROWS_WITH(used("$BRAISE_TEST_TWO/x"), Catch::Contains("is no absolute path"));
}

TEST_CASE("time is up as soon as what is needed, and a little to end in, no longer fits") {
  constexpr std::int64_t kSecond = 1'000'000, kBegan = 1'700'000'000 * kSecond;
  const auto up = [&](double whole_s, double passed_s, double needed_s) {
    const auto us = [&](double s) { return kBegan + static_cast<std::int64_t>(s * 1e6); };
    return is_time_up(kBegan, us(whole_s), us(passed_s), needed_s);
  };
  CHECK_FALSE(up(3600, 3000, 590));
  CHECK(up(3600, 3000, 596));  // five seconds to end in
  CHECK_FALSE(up(10, 8.9, 0.5));
  CHECK(up(10, 9.1, 0.5));  // of ten seconds, half a one
  CHECK(up(3600, 4000, 0));
  CHECK(up(-5, 0, 0));  // it was over before it began
}

TEST_CASE("a rank whose time is up stops all, and none stops of itself where nobody knows what is needed") {
  const TemporaryFolder folder;
  Attempt attempt;
  attempt.dir = folder.path();
  const stages::JobSpec job;
  const std::unique_ptr<comm::Communicator> comm = comm::single();
  HeartbeatThread heartbeat(folder.path(), 0, "n1");
  RankLog log(folder.path() / "log.0.txt");
  using stages::Request;
  const auto poll = [&](std::optional<double> needed_s) {
    WorkerContext context(job, attempt, *comm, heartbeat, log);
    return context.poll_request(needed_s);
  };
  CHECK(poll(1e9) == Request::none);  // no end is known
  attempt.ends_us = io::utc_us() + 3600'000'000;
  CHECK(poll(std::nullopt) == Request::none);
  CHECK(poll(10) == Request::none);
  CHECK(poll(7200) == Request::stop);
  CHECK_THAT(io::read_file(folder.path() / "log.0.txt"), Catch::Contains("the time of this attempt ends at 20"));
  WorkerContext context(job, attempt, *comm, heartbeat, log);
  CHECK(context.poll_request(7200) == Request::stop);
  CHECK(context.poll_request(std::nullopt) == Request::stop);  // it stays so
}

TEST_CASE("requests are agreed on: a checkpoint is told once a signal, a stop at every poll") {
  const TemporaryFolder folder;
  catch_requests();
  Attempt attempt;
  attempt.dir = folder.path();
  stages::JobSpec job;
  TwoRanks comm;
  HeartbeatThread heartbeat(folder.path(), 0, "n1");
  RankLog log(folder.path() / "log.0.txt");
  WorkerContext context(job, attempt, comm, heartbeat, log);
  using stages::Request;
  context.operation("encode");
  CHECK(context.poll_request(std::nullopt) == Request::none);
  CHECK(heartbeat.operation() == "encode");
  ::raise(SIGUSR1);
  CHECK(context.poll_request(std::nullopt) == Request::checkpoint);
  CHECK(context.poll_request(std::nullopt) == Request::none);
  comm.other_max_ = 1;  // the same signal, later at the other rank
  CHECK(context.poll_request(std::nullopt) == Request::none);
  comm.other_max_ = 2;
  CHECK(context.poll_request(std::nullopt) == Request::checkpoint);
  ::raise(SIGUSR1);
  CHECK(context.poll_request(std::nullopt) == Request::none);
  ::raise(SIGUSR1);
  CHECK(context.poll_request(std::nullopt) == Request::checkpoint);
  ::raise(SIGUSR2);
  ::raise(SIGTERM);
  CHECK(context.poll_request(std::nullopt) == Request::stop);
  CHECK(context.poll_request(std::nullopt) == Request::stop);
}

TEST_CASE("every stage kind has its work, and the build tells what it is of") {
  for (const stages::StageDescriptor* kind : stages::registry()) CHECK(find_work(kind->kind) != nullptr);
  CHECK(find_work("nonsense") == nullptr);
  const nlohmann::json facts = versions();
  for (const char* key : {"braise", "mpi", "hdf5", "onednn"}) CHECK_FALSE(facts.at(key).get<std::string>().empty());
}

}  // namespace
}  // namespace braise::worker
