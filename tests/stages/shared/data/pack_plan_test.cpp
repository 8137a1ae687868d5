// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/data/pack_plan.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/stages/shared/data/data_files.h"

namespace braise::data {
namespace {

using Lengths = std::vector<std::int64_t>;

PackPlan plan_of(std::int64_t sequence, const Lengths& lengths, core::Arena& host) {
  return PackPlan(
      sequence,
      [&](const auto& visit) {
        for (std::size_t i = 0; i < lengths.size(); ++i) visit({i, lengths[i]});
      },
      host);
}

/// How many sequences best fit, longest first, needs, piece by piece.
std::size_t best_fit(std::int64_t sequence, Lengths lengths) {
  std::sort(lengths.rbegin(), lengths.rend());
  std::vector<std::int64_t> rooms;
  for (const std::int64_t length : lengths) {
    std::int64_t* best = nullptr;
    for (std::int64_t& room : rooms) {
      if (room >= length && (best == nullptr || room < *best)) best = &room;
    }
    if (best == nullptr) best = &rooms.emplace_back(sequence);
    *best -= length;
  }
  return rooms.size();
}

Lengths random_lengths(std::size_t count, std::int64_t most, std::uint64_t seed, bool short_ones) {
  Lengths lengths;
  const core::RandomStream random(seed, core::Purpose::kData);
  for (std::size_t i = 0; i < count; ++i) {
    auto length = 1 + below(bits_at(random, 2 * i), static_cast<std::uint64_t>(most));
    if (short_ones) length = 1 + below(bits_at(random, 2 * i + 1), length);
    lengths.push_back(static_cast<std::int64_t>(length));
  }
  return lengths;
}

TEST_CASE("every piece comes once in an epoch, and sequences are as few as by best fit") {
  test::HostMemory memory;
  for (const std::int64_t sequence : {1, 2, 7, 16, 100, 1000}) {
    for (const std::size_t count : {0, 1, 2, 50, 3000}) {
      for (const bool short_ones : {false, true}) {
        const Lengths lengths = random_lengths(count, sequence, count + 1, short_ones);
        const PackPlan plan = plan_of(sequence, lengths, memory.arena);
        INFO("sequence " << sequence << ", " << count << " pieces");
        CHECK(plan.pieces() == count);
        CHECK(plan.sequences() == best_fit(sequence, lengths));
        CHECK(plan.positions() ==
              static_cast<std::uint64_t>(std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0})));
        for (const std::uint64_t epoch : {0, 1, 17}) {
          std::vector<int> seen(count);
          for (std::uint64_t i = 0; i < plan.sequences(); ++i) {
            std::int64_t room = sequence;
            const auto pieces = plan.sequence(Draw{3, 1}, epoch, i);
            CHECK(!pieces.empty());
            for (const PackPlan::Piece& piece : pieces) {
              REQUIRE(piece.value < count);
              ++seen[piece.value];
              if (piece.length != lengths[piece.value]) FAIL("piece " << piece.value);
              room -= piece.length;
            }
            if (room < 0) FAIL("sequence " << i << " is too long");
          }
          CHECK(std::count(seen.begin(), seen.end(), 1) == static_cast<std::ptrdiff_t>(count));
        }
      }
    }
  }
}

TEST_CASE("epochs differ in the order of sequences, in who is together, and in the order within") {
  test::HostMemory memory;
  const Lengths lengths = random_lengths(2000, 64, 5, true);
  const PackPlan plan = plan_of(64, lengths, memory.arena);
  const auto values = [&](std::uint64_t epoch, std::uint64_t index) {
    std::vector<std::uint64_t> list;
    for (const PackPlan::Piece& piece : plan.sequence(Draw{3, 1}, epoch, index)) list.push_back(piece.value);
    return list;
  };
  std::set<std::set<std::uint64_t>> together;
  int same = 0, decreasing = 0, several = 0;
  for (std::uint64_t i = 0; i < plan.sequences(); ++i) {
    const auto first = values(0, i);
    CHECK(first == values(0, i));
    same += first == values(1, i) ? 1 : 0;
    together.insert(std::set<std::uint64_t>(first.begin(), first.end()));
    if (first.size() < 3) continue;
    ++several;
    decreasing += std::is_sorted(first.rbegin(), first.rend(), [&](auto a, auto b) { return lengths[a] < lengths[b]; });
  }
  CHECK(same == 0);
  REQUIRE(several > 50);
  CHECK(decreasing < several / 2);
  int again = 0;
  for (std::uint64_t i = 0; i < plan.sequences(); ++i) {
    const auto second = values(1, i);
    if (second.size() > 1) again += static_cast<int>(together.count({second.begin(), second.end()}));
  }
  CHECK(again < 10);
}

TEST_CASE("a plan's memory is in the ledger: 8 bytes a piece") {
  test::HostMemory memory;
  {
    const PackPlan plan = plan_of(8, Lengths(1000, 3), memory.arena);
    CHECK(plan.sequences() == 500);
    CHECK(memory.ledger.current_bytes(core::Space::kHost, core::Category::kWorkspace) >= 8000);
    CHECK(memory.ledger.current_bytes(core::Space::kHost, core::Category::kWorkspace) < 8600);
  }
  CHECK(memory.ledger.total_bytes(core::Space::kHost) == 0);
}

}  // namespace
}  // namespace braise::data
