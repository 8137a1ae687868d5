// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/arena.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/parallel.h"
#include "tests/support/tensors.h"

using namespace braise::core;
using Catch::Contains;

namespace {

constexpr std::int64_t kMiB = 1 << 20;

}  // namespace

TEST_CASE("the ledger counts by category and owner, now and at most") {
  MemoryLedger ledger(100 * kMiB);
  Arena arena(kCpu, Space::kDevice, ledger);
  Buffer weights = arena.allocate(10 * kMiB, Category::kParameters, "h.0.mlp");
  {
    const Buffer scratch = arena.allocate(5 * kMiB, Category::kWorkspace, "gemm");
    CHECK(ledger.total_bytes(Space::kDevice) == 15 * kMiB);
  }
  CHECK(ledger.current_bytes(Space::kDevice, Category::kWorkspace) == 0);
  CHECK(ledger.peak_bytes(Space::kDevice, Category::kWorkspace) == 5 * kMiB);
  CHECK(ledger.total_peak_bytes(Space::kDevice) == 15 * kMiB);
  CHECK(ledger.total_bytes(Space::kHost) == 0);
  const auto holdings = ledger.holdings(Space::kDevice);
  REQUIRE(holdings.size() == 1);
  CHECK(holdings[0].owner == "h.0.mlp");
  CHECK(holdings[0].bytes == 10 * kMiB);
  ledger.reset_peaks();
  CHECK(ledger.total_peak_bytes(Space::kDevice) == 10 * kMiB);
  weights.reset();
  CHECK(ledger.text(Space::kDevice) == "nothing is held");
}

TEST_CASE("what exceeds the budget is refused with who holds what, and nothing is recorded") {
  MemoryLedger ledger(64 * kMiB);
  Arena arena(kCpu, Space::kDevice, ledger);
  const Buffer weights = arena.allocate(30 * kMiB, Category::kParameters, "embedding");
  const Buffer moments = arena.allocate(20 * kMiB, Category::kOptimizer, "adamw");
  CHECK_THROWS_WITH(arena.allocate(15 * kMiB, Category::kActivations, "h.3.attn"),
                    Contains("device memory: h.3.attn asked for 15.0 MiB of activations") &&
                        Contains("the budget of 64.0 MiB has 14.0 MiB left") &&
                        Contains("parameters 30.0 MiB, optimizer 20.0 MiB") &&
                        Contains("largest owners: embedding (parameters) 30.0 MiB, adamw (optimizer) 20.0 MiB"));
  CHECK(ledger.total_bytes(Space::kDevice) == 50 * kMiB);
  CHECK(ledger.current_bytes(Space::kDevice, Category::kActivations) == 0);
}

TEST_CASE("memory in pieces too small for a request is reported as that") {
  MemoryLedger ledger(64 * kMiB);
  Arena arena(kCpu, Space::kDevice, ledger);
  std::vector<Buffer> buffers;
  for (int i = 0; i < 16; ++i) buffers.push_back(arena.allocate(4 * kMiB, Category::kKv, "block"));
  for (std::size_t i = 0; i < 16; i += 2) buffers[i].reset();
  CHECK(ledger.total_bytes(Space::kDevice) == 32 * kMiB);
  CHECK_THROWS_WITH(arena.allocate(8 * kMiB, Category::kKv, "long"), Contains("in pieces that are too small"));
  CHECK(ledger.total_bytes(Space::kDevice) == 32 * kMiB);
  CHECK_NOTHROW(arena.allocate(4 * kMiB, Category::kKv, "short"));
}

TEST_CASE("a repeated pattern of allocations takes nothing more from the system") {
  MemoryLedger ledger;
  Arena arena(kCpu, Space::kDevice, ledger);
  const Buffer kept = arena.allocate(3 * kMiB + 1, Category::kParameters, "w");
  std::int64_t after_first = 0;
  for (int step = 0; step < 5; ++step) {
    std::vector<Buffer> forward;
    for (int layer = 0; layer < 12; ++layer) {
      forward.push_back(arena.allocate((layer + 1) * 777'777, Category::kActivations, "h"));
      const Buffer scratch = arena.allocate(5 * kMiB, Category::kWorkspace, "gemm");
    }
    while (!forward.empty()) forward.pop_back();
    if (step == 0) after_first = arena.system_allocations();
  }
  CHECK(arena.system_allocations() == after_first);
  const std::int64_t held = arena.system_bytes();
  arena.trim();
  CHECK(arena.system_bytes() < held);
  CHECK(arena.system_bytes() >= 3 * kMiB);
  CHECK(arena.system_peak_bytes() == held);
}

TEST_CASE("blocks never overlap, are aligned, and join again when they are free") {
  MemoryLedger ledger;
  Arena arena(kCpu, Space::kDevice, ledger);
  std::mt19937 random(7);
  std::vector<Buffer> live;
  for (int i = 0; i < 3000; ++i) {
    if (random() % 5 < 3 || live.empty()) {
      const std::int64_t bytes = random() % 4 == 0 ? random() % (3 * kMiB) : random() % 5000;
      live.push_back(arena.allocate(bytes, Category::kWorkspace, "x"));
      const Buffer& buffer = live.back();
      REQUIRE(reinterpret_cast<std::uintptr_t>(buffer.data()) % (bytes >= 65536 ? 4096 : 256) == 0);
      if (bytes > 0) std::memset(buffer.data(), 0x5a, static_cast<std::size_t>(bytes));
    } else {
      const std::size_t at = random() % live.size();
      std::swap(live[at], live.back());
      live.pop_back();
    }
    if (i % 100 == 0) {
      std::map<std::uintptr_t, std::int64_t> blocks;
      for (const Buffer& buffer : live) {
        REQUIRE(blocks.emplace(reinterpret_cast<std::uintptr_t>(buffer.data()), buffer.bytes()).second);
      }
      std::uintptr_t end = 0;
      for (const auto& [start, bytes] : blocks) {
        REQUIRE(start >= end);
        end = start + static_cast<std::uintptr_t>(bytes);
      }
    }
  }
  live.clear();
  arena.trim();
  CHECK(arena.system_bytes() == 0);  // so all free blocks had joined
}

TEST_CASE("threads may allocate at once") {
  MemoryLedger ledger;
  Arena arena(kCpu, Space::kDevice, ledger);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        Buffer first = arena.allocate(100 + i * 300, Category::kWorkspace, "thread");
        const Buffer second = arena.allocate(64, Category::kCommunication, "thread");
        first = arena.allocate(10, Category::kWorkspace, "thread");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(ledger.total_bytes(Space::kDevice) == 0);
}

TEST_CASE("a buffer gives views of what fits") {
  braise::test::Bench bench;
  const Buffer buffer = bench.arena().allocate(100, Category::kWorkspace, "x");
  CHECK(buffer.view(Dtype::kFloat32, Shape{5, 5}).elements() == 25);
  CHECK_THROWS_WITH(buffer.view(Dtype::kFloat32, Shape{5, 5}, 4), Contains("does not fit a buffer of 100 bytes"));
  CHECK(bench.arena().tensor(Dtype::kBfloat16, Shape{0, 7}, Category::kWorkspace, "x").view.elements() == 0);
}

TEST_CASE("a device without a backend is refused with the remedy") {
  MemoryLedger ledger;
  CHECK_THROWS_WITH(Arena(Device{DeviceKind::kCuda, 1}, Space::kDevice, ledger),
                    Contains("cuda:1") && Contains("no CUDA backend; use device: cpu"));
}

TEST_CASE("events of the CPU are moments") {
  braise::test::Bench bench;
  const auto first = bench.stream().record();
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  const auto second = bench.stream().record();
  second->synchronize();
  bench.stream().wait(*first);
  bench.stream().synchronize();
  CHECK(second->seconds_since(*first) >= 0.002);
}
