// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/slurm/client.h"

#include <catch2/catch.hpp>

#include "kernels/core/error.h"
#include "tests/support/commands.h"

namespace braise::launch::slurm {
namespace {
// As sacct's manual describes its output: there is no slurmdbd here to record one from.
constexpr char kAccounts[] =
    "12|NODE_FAIL|None|n1\n"
    "12.batch|CANCELLED||n1\n"
    "13_4|CANCELLED by 1000|None|None assigned\n"
    "13_[5-7%2]|PENDING|Priority|None assigned\n"
    "14|OUT_OF_MEMORY|None|n[2-3]\n"
    "15|RUNNING|None|n4\n"
    "short|line\n"
    "\n";

TEST_CASE("what accounting tells is read job by job") {
  const std::vector<QueueEntry> entries = parse_accounting(kAccounts);
  REQUIRE(entries.size() == 4);
  CHECK(entries[0].id == "12");
  CHECK(entries[0].state == "NODE_FAIL");
  CHECK(entries[0].nodes == "n1");
  CHECK_FALSE(entries[0].is_alive());
  CHECK(entries[1].id == "13_4");
  CHECK(entries[1].state == "CANCELLED");
  CHECK(entries[1].nodes.empty());
  CHECK(entries[2].nodes == "n[2-3]");
  CHECK(entries[3].is_alive());
}

TEST_CASE("accounting is asked about all jobs at once, and a cluster without any is none") {
  test::Commands commands;
  Client client;
  client.patience = std::chrono::milliseconds(0);
  commands.add("sacct", "[[ \" $* \" == *' --jobs=12,13_4 '* ]] && echo '12|TIMEOUT|None|n1'\n");
  const std::vector<QueueEntry> entries = client.accounting({"12", "13_4"});
  REQUIRE(entries.size() == 1);
  CHECK(entries[0].state == "TIMEOUT");
  commands.add("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1\n");
  CHECK(client.accounting({"12"}).empty());
  commands.add("sacct", "echo 'sacct: error: slurmdbd: Connection refused' >&2; exit 1\n");
  CHECK_THROWS_WITH(client.accounting({"12"}), Catch::Contains("Connection refused"));
}

TEST_CASE("a job's end is asked for as seconds, whatever the time zone") {
  test::Commands commands;
  const Client client;
  commands.add("squeue", "[[ $SLURM_TIME_FORMAT == %s && \" $* \" == *' --jobs=12_3 '* ]] && echo 1800000000\n");
  CHECK(client.ends_us("12_3") == 1'800'000'000'000'000);
  commands.add("squeue", "echo N/A\n");
  CHECK_FALSE(client.ends_us("12_3"));
}

}  // namespace
}  // namespace braise::launch::slurm
