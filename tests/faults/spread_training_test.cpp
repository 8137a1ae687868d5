// SPDX-License-Identifier: Apache-2.0
// What may befall a training whose state is spread over ranks and lies on a disk.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "stages/shared/io/file.h"
#include "tests/faults/failing_disk.h"
#include "tests/faults/processes.h"
#include "tests/faults/small_training.h"
#include "tests/support/support.h"

namespace braise {
namespace {
namespace fs = std::filesystem;

using Catch::Contains;
using Clock = std::chrono::steady_clock;

constexpr double kHangTimeout_s = 3;
constexpr std::int64_t kCheckpointEvery = 10;

const std::vector<std::string> kSpread{"resources.hang_timeout=3s",           "stages.pretrain.steps=45",
                                       "stages.pretrain.checkpoint.every=10", "stages.pretrain.validation.every=0",
                                       "stages.pretrain.parallel.zero=3",     "stages.pretrain.offload.optimizer=nvme",
                                       "stages.pretrain.offload.master=nvme"};

struct Spread {
  test::TemporaryFolder folder;
  fs::path recipe = test::write_training_recipe(folder.path());
  fs::path output = folder.path() / "output";
  fs::path straight;

  Spread() {
    const test::Finished finished =
        test::run_program(test::training_command(recipe, folder.path() / "straight", kSpread));
    INFO(finished.err);
    REQUIRE(finished.status == 0);
    straight = test::training_run_in(folder.path() / "straight");
  }

  pid_t start(const fs::path& runs, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> set = kSpread;
    set.insert(set.end(), more.begin(), more.end());
    return test::start(test::training_command(recipe, runs, set), output);
  }

  void require_resumed_to_same(const fs::path& runs) const {
    const fs::path run = test::training_run_in(runs);
    const test::Finished resumed = test::run_program({test::program("braise"), "resume", run, "--runs", runs});
    INFO(resumed.out << resumed.err);
    REQUIRE(resumed.status == 0);
    CHECK_THAT(test::logs_of(run), Contains("goes on after step "));
    require_same(run);
  }

  void require_same(const fs::path& run) const {
    const test::Finished compared =
        test::run_program({test::program("braise"), "compare", straight / "jobs/pretrain", run / "jobs/pretrain"});
    INFO(compared.out << compared.err);
    REQUIRE(compared.status == 0);
    CHECK_THAT(compared.out, Contains("identical through step 45"));
    CHECK(test::all_gone(run));
  }
};

/// The scratch file that a worker has open, as a path by which others can open it.
fs::path scratch_of(pid_t rank) {
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(rank) + "/fd")) {
    std::error_code gone;
    const std::string target = fs::read_symlink(entry.path(), gone).string();
    if (target.find("/scratch/") != std::string::npos && target.ends_with(" (deleted)")) return entry.path();
  }
  return {};
}

/// Stops the ranks while none of them saves a checkpoint.
std::vector<pid_t> stop_within_step(const fs::path& runs, pid_t runner) {
  const auto signal_all = [](const std::vector<pid_t>& ranks, int signal) {
    for (const pid_t rank : ranks) REQUIRE(::kill(rank, signal) == 0);
  };
  while (!test::has_ended(runner)) {
    std::vector<pid_t> ranks = test::processes_of("braise-worker", runs);
    signal_all(ranks, SIGSTOP);
    const std::int64_t since_checkpoint = *test::steps_told(test::training_run_in(runs)).rbegin() % kCheckpointEvery;
    if (since_checkpoint >= 1 && since_checkpoint <= kCheckpointEvery - 2) return ranks;
    signal_all(ranks, SIGCONT);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  FAIL("the training ended before it could be stopped within a step");
  return {};
}

TEST_CASE("a spread training whose rank or disk fails ends, says why, and goes on to the same bits") {
  const Spread spread;
  const auto befalls = [&](const std::string& name, const std::function<void(const fs::path&, pid_t)>& fault) {
    const fs::path runs = spread.folder.path() / name;
    const pid_t runner = spread.start(runs);
    REQUIRE(test::wait_for_step(runs, 12, runner));
    fault(runs, runner);
    INFO(name << ":\n" << io::read_file(spread.output));
    CHECK(test::all_gone(runs));
    spread.require_resumed_to_same(runs);
    fs::remove(spread.output);
  };

  befalls("stopped", [&](const fs::path& runs, pid_t runner) {
    const pid_t victim = test::processes_of("braise-worker", runs).back();
    REQUIRE(::kill(victim, SIGSTOP) == 0);
    const auto stopped = Clock::now();
    CHECK(test::end_of(runner) == 1);
    // The ranks are looked at now and then, and given time to end.
    CHECK(std::chrono::duration<double>(Clock::now() - stopped).count() < 2 * kHangTimeout_s + 4);
    CHECK_THAT(io::read_file(spread.output),
               Contains("hung: rank ") && Contains("pid " + std::to_string(victim) + ")"));
  });

  befalls("killed", [&](const fs::path& runs, pid_t runner) {
    REQUIRE(::kill(test::processes_of("braise-worker", runs).back(), SIGKILL) == 0);
    const auto killed = Clock::now();
    CHECK(test::end_of(runner) == 1);
    CHECK(std::chrono::duration<double>(Clock::now() - killed).count() < kHangTimeout_s + 4);
    CHECK_THAT(io::read_file(spread.output), Contains("rank ") && Contains("signal 9"));
  });

  befalls("cut off", [&](const fs::path& runs, pid_t runner) {
    const std::vector<pid_t> ranks = stop_within_step(runs, runner);
    const fs::path scratch = scratch_of(ranks.front());
    REQUIRE_FALSE(scratch.empty());
    const io::FileDescriptor file(::open(scratch.c_str(), O_WRONLY));
    REQUIRE(::ftruncate(file.get(), 4096) == 0);
    for (const pid_t rank : ranks) REQUIRE(::kill(rank, SIGCONT) == 0);
    CHECK(test::end_of(runner) == 1);
    CHECK_THAT(io::read_file(spread.output), Contains("cannot read ") && Contains("of the scratch file in "));
  });
}

TEST_CASE("a training whose scratch disk fails ends with the error and the checkpoints it had") {
  test::FailingDisk disk;
  if (!disk.mounted()) {
    WARN("skipped: this user may not make a disk that fails (loop device, mkfs.ext4, mount)");
    return;
  }
  const Spread spread;
  const fs::path runs = spread.folder.path() / "runs";
  // Saving is most of what there is to do, and is done from where the state lies.
  const pid_t runner = spread.start(
      runs, {"stages.pretrain.offload.path=" + disk.path().string(), "stages.pretrain.offload.parameters=nvme",
             "stages.pretrain.checkpoint.every=1", "stages.pretrain.checkpoint.keep=3"});
  REQUIRE(test::wait_for_step(runs, 12, runner));
  disk.fail();
  CHECK(test::end_of(runner) == 1);
  INFO(io::read_file(spread.output));
  CHECK_THAT(io::read_file(spread.output),
             Contains("the scratch file in " + disk.path().string()) && Contains("Input/output error"));
  CHECK(test::all_gone(runs));
  disk.unmount();

  int whole = 0;
  for (const auto& entry : fs::recursive_directory_iterator(test::training_run_in(runs) / "jobs/pretrain/attempts")) {
    if (entry.path().filename() != "manifest.json") continue;
    const test::Finished verified =
        test::run_program({test::program("braise"), "inspect", entry.path().parent_path(), "--verify"});
    INFO(verified.out << verified.err);
    CHECK(verified.status == 0);
    ++whole;
  }
  CHECK(whole >= 1);
  spread.require_resumed_to_same(runs);
}

TEST_CASE("a scratch disk that is too small is refused before training, and one that fills up later takes no harm") {
  const test::SmallDisk disk("2m");
  if (!disk.mounted()) {
    WARN("skipped: this user may not mount a small disk");
    return;
  }
  const Spread spread;
  const std::string path = "stages.pretrain.offload.path=" + disk.path().string();
  const fs::path large = spread.folder.path() / "large";
  CHECK(test::end_of(spread.start(large, {path, "stages.pretrain.model.hidden=256"})) == 1);
  CHECK_THAT(io::read_file(spread.output), Contains("no space for offloading in " + disk.path().string()) &&
                                               Contains(" are needed, ") && Contains(" are free"));
  CHECK(test::steps_told(test::training_run_in(large)).empty());

  const fs::path runs = spread.folder.path() / "runs";
  const pid_t runner = spread.start(runs, {path});
  REQUIRE(test::wait_for_step(runs, 21, runner));
  const fs::path hog = disk.path() / "hog";
  const io::FileDescriptor file(::open(hog.c_str(), O_WRONLY | O_CREAT, 0666));
  const std::string junk(4096, 'x');
  while (::write(file.get(), junk.data(), junk.size()) > 0) {
  }
  CHECK(errno == ENOSPC);
  CHECK(test::end_of(runner) == 0);
  spread.require_same(test::training_run_in(runs));
}

}  // namespace
}  // namespace braise
