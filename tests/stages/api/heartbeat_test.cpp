// SPDX-License-Identifier: Apache-2.0
#include "stages/api/heartbeat.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "tests/support/support.h"

namespace braise::stages {
namespace {

constexpr std::int64_t kSecond = 1'000'000;
constexpr std::int64_t kNow = 1'700'000'000 * kSecond;

Heartbeat beat(int rank, std::int64_t beat_age_s, std::int64_t operation_age_s, const std::string& operation) {
  return {rank, "n1", 100 + rank, kNow - beat_age_s * kSecond, kNow - operation_age_s * kSecond, operation};
}

std::vector<int> ranks_of(const std::vector<Heartbeat>& heartbeats) {
  std::vector<int> ranks;
  for (const Heartbeat& heartbeat : heartbeats) ranks.push_back(heartbeat.rank);
  return ranks;
}

std::vector<int> hung(const std::vector<Heartbeat>& heartbeats) {
  return ranks_of(hung_ranks(heartbeats, kNow, 10 * kSecond));
}

TEST_CASE("ranks that move are not hung") {
  CHECK(hung({}).empty());
  CHECK(hung({beat(0, 1, 2, "read"), beat(1, 0, 10, "write")}).empty());
}

TEST_CASE("a rank whose heartbeat is old is hung, whatever the others do") {
  CHECK(hung({beat(0, 1, 30, "wait for the other ranks"), beat(1, 12, 12, "wait for the other ranks")}) ==
        std::vector<int>{1});
  CHECK(hung({beat(0, 1, 30, "write shard 3"), beat(1, 12, 30, "read")}) == std::vector<int>{1});
}

TEST_CASE("a rank that beats but does not move is hung; those that wait for it are not") {
  CHECK(hung({beat(0, 1, 30, "wait for the other ranks"), beat(1, 1, 11, "write shard 3"), beat(2, 1, 1, "read")}) ==
        std::vector<int>{1});
}

TEST_CASE("a rank that waits is not hung while another moves") {
  CHECK(hung({beat(0, 1, 3000, "wait for the other ranks"), beat(1, 1, 9, "write shard 3")}).empty());
}

TEST_CASE("where all ranks wait for each other, all are hung") {
  CHECK(hung({beat(0, 1, 30, "wait for rank 1"), beat(1, 1, 11, "wait for rank 0")}) == std::vector<int>{0, 1});
}

TEST_CASE("a rank that was stopped is named alone, although those it holds up have not moved for longer") {
  CHECK(hung({beat(0, 0, 11, "measure barrier"), beat(1, 9, 11, "measure barrier")}) == std::vector<int>{1});
  CHECK(hung({beat(0, 0, 11, "wait for the others"), beat(1, 9, 11, "wait for the others")}) == std::vector<int>{1});
  // A single late beat is no proof.
  CHECK(hung({beat(0, 0, 11, "measure barrier"), beat(1, 2, 11, "measure barrier")}) == std::vector<int>{0, 1});
}

TEST_CASE("a hung rank is named with its place and its last operation") {
  CHECK(describe_hung({3, "n2", 4711, kNow, kNow - 34 * kSecond, "write shard 3"}, kNow) ==
        "rank 3 (host n2, pid 4711) has not moved for 34 s; last operation: write shard 3");
}

TEST_CASE("a heartbeat is read as it was written, and its file never changes its length") {
  const test::TemporaryFolder folder;
  const Heartbeat small = beat(10, 1, 2, "read");
  Heartbeat large = beat(2, 1, 2, std::string(5000, 'x') + "\n\"\xc3");
  large.host = std::string(300, 'h');
  CHECK(to_text(small).size() == to_text(large).size());
  folder.write("heartbeat.10", to_text(small));
  folder.write("heartbeat.2", to_text(large));
  const std::vector<Heartbeat> read = read_heartbeats(folder.path());
  REQUIRE(ranks_of(read) == std::vector<int>{2, 10});
  CHECK(read[0].operation.starts_with("xxxxxxxx"));
  CHECK(read[1].operation == "read");
  CHECK(read[1].host == "n1");
  CHECK(read[1].pid == 110);
  CHECK(read[1].beat_us == kNow - kSecond);
  CHECK(read[1].operation_us == kNow - 2 * kSecond);
}

TEST_CASE("files that are no heartbeats are left out") {
  const test::TemporaryFolder folder;
  folder.write("heartbeat.0", to_text(beat(0, 1, 1, "read")).substr(0, 40));
  folder.write("heartbeat.1", "");
  folder.write("heartbeat.x", to_text(beat(2, 1, 1, "read")));
  folder.write("heartbeat.3", to_text(beat(4, 1, 1, "of another rank")));
  folder.write("heartbeat.5", R"({"rank": 5, "host": "h", "pid": 1, "beat": "now", "since": "then", "operation": ""})");
  folder.write("heartbeat.6", "[1]");
  CHECK(read_heartbeats(folder.path()).empty());
  CHECK(read_heartbeats(folder.path() / "missing").empty());
}

}  // namespace
}  // namespace braise::stages
