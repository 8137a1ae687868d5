// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/run_directory.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <thread>

#include "kernels/core/error.h"
#include "runner/journal/replay.h"
#include "stages/shared/io/file.h"
#include "tests/runner/journal/sample.h"
#include "tests/support/support.h"

namespace braise::journal {
namespace fs = std::filesystem;
using Catch::Matchers::Contains;
using namespace std::chrono_literals;
namespace {

RunDirectory make(const fs::path& runs, const std::string& name) {
  return RunDirectory::create(runs, name, sample_files()).run;
}

/// A run of a fixed name, for tests of finding.
void plant(const test::TemporaryFolder& folder, const std::string& id) {
  fs::create_directories(folder.path() / id / "journal");
  folder.write(id + "/plan.json", "{}");
  folder.write(id + "/provenance.json", "{}");
}

/// Runs `body` in a child process that ends without cleaning up, as one killed would, and waits for it.
template <class Body>
void in_a_process_that_dies(const Body& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    body();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  REQUIRE(status == 0);
}

std::size_t entries(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

void age(const fs::path& path) {
  fs::last_write_time(path, fs::file_time_type::clock::now() - 1h);
}

TEST_CASE("a created run holds what it was made with, and is held") {
  const test::TemporaryFolder folder;
  const CreatedRun created = RunDirectory::create(folder.path() / "deep" / "runs", "demo", sample_files());
  const RunDirectory& run = created.run;
  CHECK(io::read_file(run.recipe_file()) == sample_files().recipe);
  CHECK(io::read_file(run.plan_file()) == sample_files().plan);
  CHECK(run.id().starts_with("demo-2"));
  CHECK(run.id().size() == std::string("demo-20260131-123456-3fa9bc").size());
  CHECK(fs::is_directory(run.journal_dir()));
  CHECK(fs::is_directory(run.scratch_dir()));
  CHECK(entries(run.runs_dir()) == 1);
  REQUIRE(run.holder());
  CHECK(run.holder()->pid == ::getpid());
  CHECK(run.holder()->writer == created.lock.holder().writer);
  CHECK_THROWS_WITH(run.lock(), Contains("is being run by process " + std::to_string(::getpid())));
}

TEST_CASE("a lock ends with its holder, however that ends") {
  const test::TemporaryFolder folder;
  const RunDirectory run = make(folder.path(), "demo");
  CHECK_FALSE(run.holder());
  in_a_process_that_dies([&] { new RunLock(run.lock()); });
  CHECK_FALSE(run.holder());
  CHECK(run.lock().holder().pid == ::getpid());
}

TEST_CASE("a runs folder that cannot be made is an error that names it") {
  const test::TemporaryFolder folder;
  folder.write("file", "");
  CHECK_THROWS_WITH(make(folder.path() / "file" / "runs", "demo"), Contains("file"));
}

TEST_CASE("a folder that is no run directory is refused") {
  const test::TemporaryFolder folder;
  CHECK_THROWS_WITH(RunDirectory::open(folder.path()), Contains("is not a run directory: it lacks plan.json"));
  CHECK_THROWS_WITH(RunDirectory::open(folder.path() / "none"), Contains("No such file"));
  const RunDirectory run = make(folder.path(), "demo");
  fs::create_directory_symlink(run.path(), folder.path() / "link");
  CHECK(RunDirectory::open(folder.path() / "link").path() == run.path());
}

TEST_CASE("a run is found by name, by beginning, by path, or as the latest") {
  const test::TemporaryFolder folder;
  CHECK_THROWS_WITH(RunDirectory::find(folder.path(), "latest"), Contains("there are no runs in"));
  CHECK_THROWS_WITH(RunDirectory::find(folder.path() / "none", "latest"), Contains("there are no runs in"));
  plant(folder, "zeta-20250101-000000-aaaaaa");
  plant(folder, "alpha-20260101-000000-bbbbbb");
  plant(folder, "alpha-20250601-000000-cccccc");
  plant(folder, ".new-alpha-20270101-000000-dddddd");
  folder.write("notes/readme", "");
  const auto find = [&](const std::string& text) { return RunDirectory::find(folder.path(), text).id(); };
  CHECK(RunDirectory::list(folder.path()).size() == 3);
  CHECK(find("latest") == "alpha-20260101-000000-bbbbbb");
  CHECK(find("zeta-20250101-000000-aaaaaa") == "zeta-20250101-000000-aaaaaa");
  CHECK(find("z") == "zeta-20250101-000000-aaaaaa");
  CHECK(find("alpha-2025") == "alpha-20250601-000000-cccccc");
  CHECK(find(folder.path() / "zeta-20250101-000000-aaaaaa") == "zeta-20250101-000000-aaaaaa");
  CHECK_THROWS_WITH(find("alpha"),
                    Contains("'alpha' could be any of 2 runs: alpha-20260101-000000-bbbbbb, alpha-2025"));
  CHECK_THROWS_WITH(find("beta\n"), Contains("there is no run 'beta\\n'") && Contains("zeta-20250101-000000-aaaaaa"));
  CHECK_THROWS_WITH(find(""), Contains("there is no run ''"));
  CHECK_THROWS_AS(find("./nowhere"), core::Error);
}

TEST_CASE("a request to stop reaches the journal where somebody runs the run") {
  const test::TemporaryFolder folder;
  CreatedRun created = RunDirectory::create(folder.path(), "demo", sample_files());
  CHECK(request_stop(created.run, StopMode::kill));
  const std::vector<JournalFile> files = read_journal(created.run.journal_dir());
  REQUIRE(files.size() == 1);
  CHECK(files[0].writer.starts_with("cancel-"));
  REQUIRE(files[0].events.size() == 1);
  CHECK(files[0].events[0].at("mode") == "kill");
  CHECK(files[0].events[0].at("runner") == created.lock.holder().writer);
  const RunDirectory idle = make(folder.path(), "idle");
  CHECK_FALSE(request_stop(idle, StopMode::stop));
  CHECK(entries(idle.journal_dir()) == 0);
}

TEST_CASE("a run directory appears whole, whenever its maker dies") {
  const test::TemporaryFolder folder;
  // The maker dies at a write that the file size limit forbids: before the last file is whole.
  RunFiles files = sample_files();
  files.provenance = std::string(1 << 20, 'x');
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_DFL);
    const rlimit limit{1 << 16, 1 << 16};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    RunDirectory::create(folder.path(), "demo", files);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  REQUIRE(WIFSIGNALED(status));
  CHECK(RunDirectory::list(folder.path()).empty());
  REQUIRE(entries(folder.path()) == 1);
  const fs::path left = fs::directory_iterator(folder.path())->path();
  CHECK(left.filename().string().starts_with(".new-demo-"));
  sweep(folder.path());
  CHECK(fs::exists(left));  // too young: its maker might not have locked it yet
  age(left);
  sweep(folder.path());
  CHECK_FALSE(fs::exists(left));
}

TEST_CASE("a sweep removes what killed runs left and nothing else") {
  const test::TemporaryFolder folder;
  const RunDirectory dead = make(folder.path(), "dead");
  CreatedRun alive = RunDirectory::create(folder.path(), "alive", sample_files());
  for (const RunDirectory& run : {dead, alive.run}) {
    fs::create_directories(run.scratch_dir() / "a-1-00000a" / "deep");
    io::write_file_durably(run.scratch_dir() / "a-1-00000a" / "deep" / "file", "x");
  }
  folder.write("precious/file", "x");
  fs::create_directory_symlink(folder.path() / "precious", dead.scratch_dir() / "link");
  folder.write("project/scratch/file", "x");  // not a run directory
  const test::TemporaryFolder elsewhere;
  const RunDirectory linked = make(elsewhere.path(), "linked");
  io::write_file_durably(linked.scratch_dir() / "file", "x");
  fs::create_directory_symlink(linked.path(), folder.path() / "linked");
  const RunDirectory odd = make(folder.path(), "odd");
  fs::remove(odd.scratch_dir());
  fs::create_directory_symlink(folder.path() / "precious", odd.scratch_dir());

  sweep(folder.path());
  CHECK(entries(dead.scratch_dir()) == 0);
  CHECK(entries(alive.run.scratch_dir()) == 1);
  CHECK(fs::exists(folder.path() / "precious" / "file"));
  CHECK(fs::exists(folder.path() / "project" / "scratch" / "file"));
  CHECK(fs::exists(linked.scratch_dir() / "file"));
  sweep(folder.path() / "none");  // no such folder: nothing to do
}

TEST_CASE("a sweep of many clean runs is quick") {
  const test::TemporaryFolder folder;
  for (int i = 0; i < 300; ++i) {
    const std::string id = "run-20250101-000000-" + std::to_string(100000 + i);
    plant(folder, id);
    fs::create_directories(folder.path() / id / "scratch");
  }
  const auto begin = std::chrono::steady_clock::now();
  sweep(folder.path());
  CHECK(std::chrono::steady_clock::now() - begin < 200ms);
}

}  // namespace
}  // namespace braise::journal
