// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/machine.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <limits>
#include <set>

#include "tests/support/support.h"

namespace braise::launch {
namespace {

constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

TEST_CASE("this machine has the cores that the process may use, each once") {
  cpu_set_t allowed;
  REQUIRE(::sched_getaffinity(0, sizeof allowed, &allowed) == 0);
  const Machine machine = this_machine();
  std::set<int> cpus, threads, cores;
  for (const Core& core : machine.cores) {
    CHECK(cores.insert(core.number).second);
    CHECK(core.cpus.size() == core.threads.size());
    for (const int cpu : core.cpus) {
      CHECK(CPU_ISSET(static_cast<std::size_t>(cpu), &allowed));
      CHECK(cpus.insert(cpu).second);
    }
    for (const int thread : core.threads) CHECK(threads.insert(thread).second);
  }
  CHECK(cpus.size() == static_cast<std::size_t>(CPU_COUNT(&allowed)));
  CHECK(machine.memory_bytes > 64 << 20);
  CHECK(machine.memory_bytes < 1ull << 50);
}

TEST_CASE("a process bound to one processor has one core") {
#ifdef __SANITIZE_THREAD__
  WARN("skipped: ThreadSanitizer keeps a thread of its own, which stays on all processors");
  return;
#endif
  const Core last = this_machine().cores.back();
  const pid_t child = ::fork();
  if (child == 0) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(last.cpus.back()), &one);
    ::sched_setaffinity(0, sizeof one, &one);
    const Machine machine = this_machine();
    ::_exit(machine.cores.size() == 1 && machine.cores[0].number == last.number &&
                    machine.cores[0].cpus == std::vector{last.cpus.back()}
                ? 0
                : 1);
  }
  int status = 1;
  ::waitpid(child, &status, 0);
  CHECK(status == 0);
}

TEST_CASE("the least memory limit of a control group and those above it counts") {
  const test::TemporaryFolder folder;
  const std::string root = folder.path().string();
  const std::string v2 = "31 24 0:27 / " + root + "/v2 rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
  const std::string v1 = "34 24 0:30 / " + root + "/v1 rw shared:9 - cgroup cgroup rw,memory\n" + "35 24 0:31 / " +
                         root + "/cpu rw - cgroup cgroup rw,cpu\n";
  SECTION("version 2") {
    folder.write("v2/a/memory.max", "3000\n");
    folder.write("v2/a/b/memory.max", "max\n");
    CHECK(memory_limit("0::/a/b\n", v2) == 3000);
    folder.write("v2/a/b/memory.max", "2000\n");
    CHECK(memory_limit("0::/a/b\n", v2) == 2000);
    CHECK(memory_limit("0::/other\n", v2) == kNoLimit);
    CHECK(memory_limit("0::/\n", v2) == kNoLimit);
  }
  SECTION("version 1") {
    folder.write("v1/memory.limit_in_bytes", "9223372036854771712\n");
    folder.write("v1/a/memory.limit_in_bytes", "4096\n");
    folder.write("cpu/a/memory.limit_in_bytes", "1\n");
    CHECK(memory_limit("5:cpu:/a\n4:memory:/a\n0::/\n", v1 + v2) == 4096);
    CHECK(memory_limit("4:memory:/\n", v1) == 9223372036854771712ull);
  }
  SECTION("a container that sees only its own part of the tree") {
    folder.write("v2/memory.max", "5000\n");
    const std::string mounts = "31 24 0:27 /docker/1f " + root + "/v2 rw - cgroup2 cgroup2 rw\n";
    CHECK(memory_limit("0::/docker/1f\n", mounts) == 5000);
  }
  SECTION("no control groups, and texts that make no sense") {
    CHECK(memory_limit("", "") == kNoLimit);
    CHECK(memory_limit("nonsense\n:::\n", "nonsense - \n - - -\n") == kNoLimit);
  }
}

TEST_CASE("GPUs are those that the driver's program tells; none where it is not there or fails") {
  const test::TemporaryFolder folder;
  const std::string path = std::getenv("PATH");
  const auto told = [&](const std::string& text) {
    const std::filesystem::path program = folder.write("nvidia-smi", text);
    std::filesystem::permissions(program, std::filesystem::perms::owner_all);
    ::setenv("PATH", (folder.path().string() + ":" + path).c_str(), 1);
    const std::vector<std::string> models = gpu_models();
    ::setenv("PATH", path.c_str(), 1);
    return models;
  };
  CHECK(told("#!/bin/sh\n[ \"$*\" = '--query-gpu=name --format=csv,noheader' ] && printf 'NVIDIA H200\\nNVIDIA "
             "L4\\n'\n") == std::vector<std::string>{"NVIDIA H200", "NVIDIA L4"});
  CHECK(told("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n").empty());
  CHECK(told("no program").empty());
}

}  // namespace
}  // namespace braise::launch
