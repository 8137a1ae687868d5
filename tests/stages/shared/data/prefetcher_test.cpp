// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/data/prefetcher.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "stages/shared/data/dataset.h"
#include "tests/stages/shared/data/data_files.h"

namespace braise::data {
namespace {

using test::Sequence;

struct Fixture {
  explicit Fixture(std::size_t tokens = 3000) {
    test::TokenContent content;
    content.train = {test::numbered(std::vector<std::size_t>(tokens / 30, 30))};
    master = test::write_token_files(folder.path(), content);
    dataset.emplace(DatasetSettings{5, 16, Cutting::kDocuments, true},
                    std::vector<Source>{{TokenSource{master, ""}, 1}}, nullptr, memory.arena);
    planned_bytes = memory.ledger.total_bytes(core::Space::kHost);
  }
  const BatchSource& source() const { return dataset->training(); }

  test::TemporaryFolder folder;
  std::filesystem::path master;
  test::HostMemory memory;
  std::optional<Dataset> dataset;
  std::int64_t planned_bytes = 0;
};

/// Batch i of a rank that takes 3 of every 12 sequences, from batch `first` on.
Prefetcher::Order order(std::uint64_t first, std::uint64_t batches) {
  return [=](std::uint64_t i) -> std::optional<BatchRange> {
    if (i >= batches) return std::nullopt;
    return BatchRange{(first + i) * 12 + 6, 3};
  };
}

std::vector<std::vector<Sequence>> all_of(Prefetcher& prefetcher) {
  std::vector<std::vector<Sequence>> batches;
  while (const std::optional<HostBatch> batch = prefetcher.next()) batches.push_back(test::sequences_of(*batch));
  return batches;
}

TEST_CASE("batches are the same with and without a thread, and after a fresh start in the middle") {
  const Fixture data;
  Prefetcher none(data.source(), order(0, 40), 0);
  const auto straight = all_of(none);
  REQUIRE(straight.size() == 40);
  CHECK(straight[7] == test::fetch(data.source(), 7 * 12 + 6, 3));
  for (const int depth : {1, 2, 5, 100}) {
    Prefetcher prefetcher(data.source(), order(0, 40), depth);
    CHECK(all_of(prefetcher) == straight);
    CHECK(!prefetcher.next());
    Prefetcher resumed(data.source(), order(25, 15), depth);
    CHECK(all_of(resumed) == std::vector<std::vector<Sequence>>(straight.begin() + 25, straight.end()));
  }
}

TEST_CASE("no more is fetched ahead than the depth, and its memory is in the ledger") {
  Fixture data;
  constexpr std::int64_t kBatchBytes = 4 * 3 * 16 * 4;
  for (const int depth : {1, 4}) {
    std::atomic<std::uint64_t> asked = 0;
    {
      Prefetcher prefetcher(
          data.source(),
          [&](std::uint64_t i) -> std::optional<BatchRange> {
            asked = i + 1;
            return BatchRange{3 * i, 3};
          },
          depth);
      const auto wait_for = [&](std::uint64_t count) {
        for (int i = 0; i < 2000 && asked < count; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        CHECK(asked == count);
      };
      const auto ahead = static_cast<std::uint64_t>(depth);
      wait_for(ahead);
      for (std::uint64_t taken = 1; taken <= 3; ++taken) {
        CHECK(prefetcher.next()->first_sequence == 3 * (taken - 1));
        wait_for(ahead + taken);
      }
      const std::int64_t held = data.memory.ledger.total_bytes(core::Space::kHost) - data.planned_bytes;
      CHECK(held >= depth * kBatchBytes);
      CHECK(held <= depth * (kBatchBytes + 256));
    }
    CHECK(data.memory.ledger.total_bytes(core::Space::kHost) == data.planned_bytes);
  }
  // The thread runs on regions the arena has: none is taken from the system for each batch.
  Prefetcher prefetcher(data.source(), order(0, 500), 3);
  prefetcher.next();
  const std::int64_t regions = data.memory.arena.system_allocations();
  while (prefetcher.next()) {
  }
  CHECK(data.memory.arena.system_allocations() <= regions + 1);
}

TEST_CASE("an error reaches the caller at its batch, and again at each later call") {
  for (const int depth : {0, 1, 3}) {
    const Fixture data(60000);
    std::atomic<bool> cut = false;
    Prefetcher prefetcher(
        data.source(),
        [&](std::uint64_t i) -> std::optional<BatchRange> {
          if (i == 5) {
            std::filesystem::resize_file(data.folder.path() / "tokens.00000.h5", 5000);
            cut = true;
          }
          return BatchRange{3 * i, 3};
        },
        depth);
    for (int i = 0; i < 5; ++i) CHECK(prefetcher.next());
    for (int i = 0; i < 3; ++i)
      CHECK_THAT(test::error_of([&] { prefetcher.next(); }), Catch::Contains("tokens.00000.h5"));
    CHECK(cut);
  }
  const Fixture data;
  Prefetcher prefetcher(
      data.source(), [](std::uint64_t) -> std::optional<BatchRange> { throw core::Error("no order"); }, 2);
  CHECK(test::error_of([&] { prefetcher.next(); }) == "no order");
}

TEST_CASE("it ends at once, whatever it is doing") {
  const Fixture data;
  for (const int depth : {0, 1, 8}) {
    for (int taken = 0; taken < 12; ++taken) {
      const auto start = std::chrono::steady_clock::now();
      {
        Prefetcher prefetcher(data.source(), order(0, taken % 3 == 0 ? 4 : 1000000), depth);
        for (int i = 0; i < taken; ++i) prefetcher.next();
      }
      CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
    }
  }
}

TEST_CASE("several prefetchers share a source") {
  const Fixture data;
  Prefetcher first(data.source(), order(0, 100), 2);
  Prefetcher second(data.source(), order(0, 100), 3);
  for (int i = 0; i < 100; ++i) CHECK(test::sequences_of(*first.next()) == test::sequences_of(*second.next()));
}

}  // namespace
}  // namespace braise::data
