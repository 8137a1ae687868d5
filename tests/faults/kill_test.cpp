// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "tests/support/support.h"

namespace braise {
namespace {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

int from_environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

struct Process {
  pid_t pid = 0;
  std::string command;  ///< arguments, joined by blanks
};

/// Every process whose command line mentions `text`, this one excepted.
std::vector<Process> processes_with(const std::string& text) {
  std::vector<Process> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid <= 0 || pid == ::getpid()) continue;
    std::string command;
    try {
      command = io::read_file(entry.path() / "cmdline");
    } catch (const std::exception&) {
      continue;  // It has ended.
    }
    for (char& c : command) c = c == '\0' ? ' ' : c;
    if (command.find(text) != std::string::npos) found.push_back({pid, command});
  }
  return found;
}

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

pid_t start(const std::vector<std::string>& arguments, const fs::path& output) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    const int out = ::open(output.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
    ::dup2(out, 1);
    ::dup2(out, 2);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  return pid;
}

/// Whether a child has ended; it stays to be waited for.
bool has_ended(pid_t child) {
  siginfo_t info{};
  return ::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == child;
}

bool all_gone(const std::string& text) {
  for (int i = 0; i < 50; ++i) {
    if (processes_with(text).empty()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return false;
}

TEST_CASE("a run killed at any instant is resumed to the same outputs") {
  const int kills = from_environment("BRAISE_KILLS", 6);
  const auto seed =
      static_cast<unsigned>(from_environment("BRAISE_KILL_SEED", static_cast<int>(std::random_device()() >> 1)));
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
    const pid_t runner = start(run_command(runs, i / 3 % 2 == 0 ? 2 : 4), output);
    const double delay_s = std::uniform_real_distribution<>(0.0, straight_s.count())(random);
    std::this_thread::sleep_for(std::chrono::duration<double>(delay_s));
    // Between two jobs there is no mpirun: then the kill comes as soon as there is one.
    bool hit = false;
    while (!hit && !has_ended(runner)) {
      std::vector<pid_t> victims;
      if (target == 0) victims.push_back(runner);
      for (const Process& process : target == 0 ? std::vector<Process>() : processes_with(runs)) {
        const std::string program = process.command.substr(0, process.command.find(' '));
        if (fs::path(program).filename() == kTargets[target]) victims.push_back(process.pid);
      }
      if (victims.empty()) continue;
      const std::size_t which = std::uniform_int_distribution<std::size_t>(0, victims.size() - 1)(random);
      hit = ::kill(victims[which], SIGKILL) == 0;
    }
    hits[hit ? kTargets[target] : "missed, the run had ended"] += 1;
    int status = 0;
    ::waitpid(runner, &status, 0);
    INFO("kill " << i << " of " << kTargets[target] << " after " << delay_s << " s; output:\n"
                 << io::read_file(output));
    CHECK(all_gone(runs));

    const fs::path run = fs::exists(runs) ? only_run_in(runs) : fs::path();
    // Killed before there was a run: there is nothing to resume, and nothing half made.
    if (run.empty()) continue;
    const test::Finished resumed = test::run_program({test::program("braise"), "resume", run, "--runs", runs});
    INFO(resumed.out << resumed.err);
    REQUIRE(resumed.status == 0);
    CHECK(outputs_of(run) == expected);
    CHECK(all_gone(runs));
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
