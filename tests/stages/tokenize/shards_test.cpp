// SPDX-License-Identifier: Apache-2.0
#include "stages/tokenize/shards.h"

#include <catch2/catch.hpp>
#include <numeric>

namespace braise::tokenize {
namespace {

FileScan scan_of(const std::vector<std::uint64_t>& lengths) {
  FileScan scan;
  for (const std::uint64_t length : lengths) scan.lengths.push_back(length);
  scan.documents = lengths.size();
  scan.text_bytes = std::accumulate(lengths.begin(), lengths.end(), std::uint64_t{0});
  return scan;
}

TEST_CASE("lengths of every size are kept") {
  const std::vector<std::uint64_t> lengths = {0, 1, 127, 128, 16383, 16384, 1u << 31, ~std::uint64_t{0}};
  LengthList list;
  for (const std::uint64_t length : lengths) list.push_back(length);
  std::vector<std::uint64_t> back;
  list.for_each([&](std::uint64_t length) { back.push_back(length); });
  CHECK(back == lengths);
  CHECK(list.size() == lengths.size());
}

TEST_CASE("a scan survives the way to another rank") {
  FileScan scan = scan_of({10, 300, 10});
  scan.identity = {123, -5};
  scan.sha256 = "abc";
  scan.landmarks = {{0, {0, 0}}, {2, {1 << 20, 17}}};
  const FileScan back = FileScan::from_bytes(scan.to_bytes());
  CHECK(back.identity == scan.identity);
  CHECK(back.sha256 == scan.sha256);
  CHECK(back.documents == 3);
  CHECK(back.text_bytes == 320);
  CHECK(back.lengths.packed() == scan.lengths.packed());
  REQUIRE(back.landmarks.size() == 2);
  CHECK(back.landmarks[1].document == 2);
  CHECK(back.landmarks[1].position.offset == 1 << 20);
  CHECK(back.landmarks[1].position.line == 17);
}

TEST_CASE("shards hold whole documents, also across files") {
  const std::vector<Shard> shards = plan_shards({scan_of({5, 5}), scan_of({}), scan_of({5, 100, 1}), scan_of({2})}, 12);
  REQUIRE(shards.size() == 3);
  const auto is = [](const Shard& shard, std::uint64_t first, std::uint64_t documents, std::uint64_t bytes) {
    CHECK(shard.first_document == first);
    CHECK(shard.documents == documents);
    CHECK(shard.text_bytes == bytes);
  };
  is(shards[0], 0, 3, 15);
  is(shards[1], 3, 1, 100);
  is(shards[2], 4, 2, 3);
  CHECK(plan_shards({scan_of({})}, 12).empty());
  CHECK(plan_shards({scan_of({12})}, 12).size() == 1);
}

TEST_CASE("shards are dealt in blocks of about equal text") {
  const auto deal = [](const std::vector<std::uint64_t>& bytes, int ranks) {
    std::vector<Shard> shards;
    for (const std::uint64_t b : bytes) shards.push_back({0, 1, b});
    return deal_shards(shards, ranks);
  };
  using List = std::vector<std::size_t>;
  CHECK(deal({1, 1, 1, 1}, 1) == List{0, 4});
  CHECK(deal({1, 1, 1, 1}, 2) == List{0, 2, 4});
  CHECK(deal({1, 1, 1, 1}, 4) == List{0, 1, 2, 3, 4});
  CHECK(deal({3, 1, 1, 1}, 2) == List{0, 1, 4});
  CHECK(deal({1, 1}, 4).front() == 0);
  CHECK(deal({1, 1}, 4).back() == 2);
  for (const int ranks : {1, 2, 3, 7, 64}) {
    const List begins = deal(std::vector<std::uint64_t>(23, 5), ranks);
    REQUIRE(begins.size() == static_cast<std::size_t>(ranks) + 1);
    CHECK(begins.front() == 0);
    CHECK(begins.back() == 23);
    for (std::size_t r = 0; r + 1 < begins.size(); ++r) {
      CHECK(begins[r] <= begins[r + 1]);
      CHECK(begins[r + 1] - begins[r] <= static_cast<std::size_t>(23 / ranks + 1));
    }
  }
}

TEST_CASE("files are dealt evenly, the largest first") {
  CHECK(deal_files({1, 10, 5, 4}, 2) == std::vector<int>{0, 0, 1, 1});
  CHECK(deal_files({0, 0, 0}, 3) == std::vector<int>{0, 1, 2});
  CHECK(deal_files({7, 7, 7}, 1) == std::vector<int>{0, 0, 0});
}

}  // namespace
}  // namespace braise::tokenize
