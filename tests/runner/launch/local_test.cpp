// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/local.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <set>
#include <sstream>
#include <thread>
#include <vector>

#include "kernels/core/error.h"
#include "runner/launch/processes.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "tests/support/support.h"

namespace braise::launch {
namespace fs = std::filesystem;
using Catch::Matchers::Contains;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
namespace {

/// A folder with a made-up attempt, whose ranks run a shell script.
struct Trial {
  test::TemporaryFolder folder;
  fs::path root;
  LocalLauncher launcher;

  explicit Trial(const std::string& below = "run") : root(folder.path() / below) {}

  Order order(const std::string& name, const std::string& script, int ranks = 1) const {
    Order order;
    order.name = "test-" + io::random_hex(8) + "/" + name;
    order.attempt_dir = root / name;
    order.scratch_dir = root / "scratch" / name;
    order.command = {"/bin/sh", "-c", script};
    order.ranks = ranks;
    fs::create_directories(order.attempt_dir);
    return order;
  }
  std::string output(const Order& order) const { return io::read_file(order.attempt_dir / "mpirun.txt"); }
};

Ending wait_for(Launched& attempt, std::chrono::seconds limit = 20s) {
  const auto give_up = Clock::now() + limit;
  for (;;) {
    pollfd event = {attempt.event_fd(), POLLIN, 0};
    ::poll(&event, 1, 1000);
    if (std::optional<Ending> ending = attempt.poll()) return *ending;
    if (Clock::now() > give_up) throw std::runtime_error("the attempt does not end");
  }
}

/// Waits until the condition holds, but not for ever.
template <class Condition>
bool soon(const Condition& condition, std::chrono::milliseconds limit = 10s) {
  const auto give_up = Clock::now() + limit;
  while (!condition()) {
    if (Clock::now() > give_up) return false;
    std::this_thread::sleep_for(5ms);
  }
  return true;
}

/// The processors that the line "cpus <rank> <list>" of each rank names; all ranks' in one set where `rank` is -1.
std::multiset<int> processors(const std::string& output) {
  std::multiset<int> found;
  std::istringstream lines(output);
  for (std::string word, rank, list; lines >> word;) {
    if (word != "cpus" || !(lines >> rank >> list)) continue;
    std::istringstream parts(list);
    for (std::string part; std::getline(parts, part, ',');) {
      const std::size_t dash = part.find('-');
      const int first = std::stoi(part), last = dash == std::string::npos ? first : std::stoi(part.substr(dash + 1));
      for (int cpu = first; cpu <= last; ++cpu) found.insert(cpu);
    }
  }
  return found;
}

const char* const kShowProcessors =
    "echo cpus $OMPI_COMM_WORLD_RANK $(sed -n 's/^Cpus_allowed_list:[^0-9]*//p' /proc/self/status)";

std::multiset<int> processors(const std::vector<Core>& cores) {
  std::multiset<int> all;
  for (const Core& core : cores) all.insert(core.cpus.begin(), core.cpus.end());
  return all;
}

TEST_CASE("an attempt runs as many ranks as it should, and what they print is kept") {
  Trial trial;
  Order order = trial.order("a", "echo rank $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE; echo oops >&2", 3);
  const auto attempt = trial.launcher.start(order);
  const Ending ending = wait_for(*attempt);
  CHECK(ending.exit_code == 0);
  CHECK_FALSE(ending.signal);
  CHECK_FALSE(ending.killed);
  const std::string output = trial.output(order);
  CHECK_THAT(output, Contains("rank 0 of 3") && Contains("rank 1 of 3") && Contains("rank 2 of 3") && Contains("oops"));
  CHECK_FALSE(fs::exists(order.scratch_dir));
  CHECK(fs::is_empty(trial.root / "scratch"));
}

TEST_CASE("an attempt sees a short list of variables, and its temporary files lie in its scratch") {
  ::setenv("BRAISE_TEST_SECRET", "x", 1);
  ::setenv("OMPI_MCA_btl", "nonsense", 1);
  Trial trial;
  Order order = trial.order("a", "env; exit 0");
  const Ending ending = wait_for(*trial.launcher.start(order));
  ::unsetenv("BRAISE_TEST_SECRET");
  ::unsetenv("OMPI_MCA_btl");
  CHECK(ending.exit_code == 0);
  const std::string output = trial.output(order);
  CHECK_THAT(output, !Contains("BRAISE_TEST_SECRET") && !Contains("nonsense"));
  CHECK_THAT(output,
             Contains("\nTMPDIR=" + order.scratch_dir.string()) || Contains("TMPDIR=" + order.scratch_dir.string()));
  CHECK_THAT(output,
             Contains("PATH=") && Contains("OMPI_MCA_btl_vader_backing_directory=" + order.scratch_dir.string()));
}

TEST_CASE("how the ranks ended is told") {
  Trial trial;
  Ending ending = wait_for(*trial.launcher.start(trial.order("a", "exit 3")));
  CHECK(ending.exit_code == 3);
  CHECK(ending.explanation == "mpirun ended with exit status 3");
  ending =
      wait_for(*trial.launcher.start(trial.order("b", "test $OMPI_COMM_WORLD_RANK = 0 && kill -9 $$; sleep 100", 2)));
  CHECK(ending.exit_code == 137);
  CHECK_THAT(ending.explanation, Contains("a rank was ended by signal 9"));
  ending = wait_for(*trial.launcher.start(trial.order("c", "kill -9 $PPID; sleep 100")));
  CHECK(ending.signal == 9);
  CHECK(ending.explanation == "mpirun was ended by signal 9");
}

TEST_CASE("two attempts side by side are bound to the cores they were given") {
  const Machine machine = this_machine();
  if (machine.cores.size() < 2) {
    WARN("one core: binding cannot be told from none");
    return;
  }
  Trial trial;
  Order first = trial.order("a", kShowProcessors), second = trial.order("b", kShowProcessors);
  first.cores = {machine.cores[1]};
  second.cores = {machine.cores[0]};
  const auto one = trial.launcher.start(first), other = trial.launcher.start(second);
  wait_for(*one);
  wait_for(*other);
  CHECK(processors(trial.output(first)) == processors(first.cores));
  CHECK(processors(trial.output(second)) == processors(second.cores));

  Order wide = trial.order("c", kShowProcessors);
  wide.threads = 2;
  wide.cores = {machine.cores[0], machine.cores[1]};
  wait_for(*trial.launcher.start(wide));
  CHECK(processors(trial.output(wide)) == processors(wide.cores));

  Order two = trial.order("d", kShowProcessors, 2);
  two.cores = {machine.cores[1], machine.cores[0]};
  wait_for(*trial.launcher.start(two));
  CHECK(processors(trial.output(two)) == processors(two.cores));
  CHECK_THAT(trial.output(two), Contains("cpus 0 " + std::to_string(machine.cores[1].cpus[0])));
}

TEST_CASE("more ranks than cores run unbound") {
  const Machine machine = this_machine();
  const int ranks = static_cast<int>(machine.cores.size()) + 2;
  Trial trial;
  const Order order = trial.order("a", kShowProcessors, ranks);
  CHECK(wait_for(*trial.launcher.start(order)).exit_code == 0);
  std::multiset<int> expected;
  for (int rank = 0; rank < ranks; ++rank) expected.merge(processors(machine.cores));
  CHECK(processors(trial.output(order)) == expected);
}

TEST_CASE("a request to stop reaches the ranks") {
  Trial trial;
  const Order order = trial.order("a",
                                  "trap 'echo stopping; exit 0' USR2; touch up.$OMPI_COMM_WORLD_RANK; "
                                  "while :; do sleep 0.02; done",
                                  2);
  const fs::path before = fs::current_path();
  fs::current_path(order.attempt_dir);
  const auto attempt = trial.launcher.start(order);
  fs::current_path(before);
  REQUIRE(soon([&] { return fs::exists(order.attempt_dir / "up.0") && fs::exists(order.attempt_dir / "up.1"); }));
  CHECK_FALSE(attempt->poll());
  attempt->ask_stop();
  attempt->ask_stop();
  const Ending ending = wait_for(*attempt);
  CHECK(ending.exit_code == 0);
  CHECK_FALSE(ending.killed);
  CHECK_THAT(trial.output(order), Contains("stopping"));
}

TEST_CASE("a killed attempt leaves no process, however it resists") {
  Trial trial;
  const Order order = trial.order("a",
                                  "trap '' TERM INT HUP USR2; (setsid sleep 1000 &) ; touch $TMPDIR/up; "
                                  "while :; do sleep 0.05; done",
                                  2);
  const auto attempt = trial.launcher.start(order);
  REQUIRE(soon([&] { return marked_processes(order.name).size() >= 5; }));  // mpirun, 2 ranks, 2 that slipped away
  attempt->kill();
  const Ending ending = wait_for(*attempt);
  CHECK(ending.killed);
  CHECK(soon([&] { return marked_processes(order.name).empty(); }));  // what is killed takes a moment to be gone
  CHECK(fs::is_empty(trial.root / "scratch"));
}

TEST_CASE("ranks that outlive mpirun are ended before the attempt has ended") {
  Trial trial;
  const Order order = trial.order("a", "(setsid sleep 1000 &); kill -9 $PPID; sleep 1000");
  const Ending ending = wait_for(*trial.launcher.start(order));
  CHECK(ending.signal == 9);
  CHECK(soon([&] { return marked_processes(order.name).empty(); }));  // what is killed takes a moment to be gone
}

TEST_CASE("an attempt that is dropped is killed") {
  Trial trial;
  const Order order = trial.order("a", "sleep 1000", 2);
  {
    const auto attempt = trial.launcher.start(order);
    REQUIRE(soon([&] { return marked_processes(order.name).size() >= 3; }));
  }
  CHECK(soon([&] { return marked_processes(order.name).empty(); }));  // what is killed takes a moment to be gone
}

TEST_CASE("mpirun and the ranks die with a runner that is killed") {
  Trial trial;
  // As braise-worker does, the ranks ask to die with mpirun.
  Order order = trial.order("a", "");
  order.command = {"/usr/bin/setpriv", "--pdeathsig", "KILL", "/bin/sleep", "1000"};
  order.ranks = 2;
  const pid_t runner = ::fork();
  if (runner == 0) {
    const auto attempt = trial.launcher.start(order);
    for (;;) ::pause();
  }
  // A rank that is not yet `sleep` may not have asked yet.
  const auto asleep = [](pid_t pid) {
    try {
      return io::read_file("/proc/" + std::to_string(pid) + "/comm") == "sleep\n";
    } catch (const core::Error&) {
      return false;  // gone meanwhile
    }
  };
  REQUIRE(soon([&] {
    const std::vector<pid_t> processes = marked_processes(order.name);
    return processes.size() == 3 && std::count_if(processes.begin(), processes.end(), asleep) == 2;
  }));
  ::kill(runner, SIGKILL);
  ::waitpid(runner, nullptr, 0);
  CHECK(soon([&] { return marked_processes(order.name).empty(); }));
  kill_marked(order.name);
}

TEST_CASE("a run may lie deep, under an odd name") {
  std::string below = "a b,c;d:'e\"$f%s\nn\xc3\xa9";
  SECTION("odd") {}
  SECTION("deep") {
    for (int i = 0; i < 4; ++i) below += "/" + std::string(200, 'x');
  }
  Trial trial(below);
  Order order = trial.order("a", kShowProcessors, 2);
  const Machine machine = this_machine();
  if (machine.cores.size() > 1) order.cores = {machine.cores[0], machine.cores[1]};
  const Ending ending = wait_for(*trial.launcher.start(order));
  INFO(trial.output(order));
  CHECK(ending.exit_code == 0);
  CHECK(processors(trial.output(order)).size() >= 2);
  CHECK(fs::is_empty(trial.root / "scratch"));
}

TEST_CASE("what cannot be launched is an error, and leaves nothing") {
  Trial trial;
  Order order = trial.order("a", "true");
  order.attempt_dir = trial.root / "none";
  CHECK_THROWS_WITH(trial.launcher.start(order), Contains("cannot open") && Contains("mpirun.txt"));
  CHECK(fs::is_empty(trial.root / "scratch"));

  const std::string path = std::getenv("PATH");
  ::setenv("PATH", "/nonexistent", 1);
  CHECK_THROWS_WITH(LocalLauncher(), Contains("there is no mpirun on PATH"));
  ::setenv("PATH", path.c_str(), 1);

  // An mpirun that is no program.
  const fs::path fake = trial.folder.write("bin/mpirun", "no program\n");
  fs::permissions(fake, fs::perms::owner_all);
  ::setenv("PATH", fake.parent_path().c_str(), 1);
  LocalLauncher broken;
  ::setenv("PATH", path.c_str(), 1);
  CHECK_THROWS_WITH(broken.start(trial.order("b", "true")), Contains("cannot run") && Contains("Exec format error"));
  CHECK(fs::is_empty(trial.root / "scratch"));
}

TEST_CASE("launching costs little more than mpirun itself") {
  Trial trial;
  const auto took = [](const auto& action) {
    auto best = Clock::duration::max();
    for (int repeat = 0; repeat < 3; ++repeat) {
      const auto begin = Clock::now();
      action();
      best = std::min(best, Clock::now() - begin);
    }
    return std::chrono::duration<double>(best).count();
  };
  const double bare = took([&] {
    const test::Finished finished =
        test::run_program({"mpirun", "-n", "1", "--oversubscribe", "/bin/true"},
                          {{"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}});
    REQUIRE(finished.status == 0);
  });
  int count = 0;
  const double launched = took([&] {
    Order order = trial.order("n" + std::to_string(count++), "true");
    order.command = {"/bin/true"};
    REQUIRE(wait_for(*trial.launcher.start(order)).exit_code == 0);
  });
  WARN("mpirun alone " << bare << " s, launched " << launched << " s");
  CHECK(launched - bare < 0.3);
}

}  // namespace
}  // namespace braise::launch
