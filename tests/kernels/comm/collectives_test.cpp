// SPDX-License-Identifier: Apache-2.0
// Ranks are threads of this process; tests/mpi does the same over MPI.
#include "kernels/comm/collectives.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <optional>
#include <thread>

#include "kernels/core/error.h"
#include "tests/support/exchange_checks.h"
#include "tests/support/thread_ranks.h"

namespace braise::comm {
namespace {

using Catch::Contains;
using core::Category;
using core::Dtype;
using core::Shape;

/// Ledger, arena and collectives of one rank.
struct Rank {
  explicit Rank(Communicator& comm) : arena(core::kCpu, core::Space::kDevice, ledger) {
    collectives.emplace(comm, arena, "data");
  }
  core::Tensor tensor(std::int64_t elements, Dtype dtype = Dtype::kFloat32) {
    core::Tensor made = arena.tensor(dtype, Shape{elements}, Category::kGradients, "test");
    std::fill_n(static_cast<std::byte*>(made.view.raw()), made.view.bytes(), std::byte{0});
    return made;
  }
  core::MemoryLedger ledger;
  core::Arena arena;
  std::optional<Collectives> collectives;
};

TEST_CASE("ranks exchange tensors") {
  const int ranks = GENERATE(1, 2, 3, 4, 5, 8);
  CHECK_NOTHROW(test::with_ranks(ranks, test::exchange_checks));
}

TEST_CASE("the single communicator exchanges tensors with itself") {
  CHECK_NOTHROW(test::exchange_checks(*single()));
}

TEST_CASE("ranges are dealt in whole blocks") {
  CHECK(even_ranges(10, 2, 4) == std::vector<Range>{{0, 4}, {4, 10}});
  CHECK(even_ranges(4, 3, 4) == std::vector<Range>{{0, 0}, {0, 0}, {0, 4}});
  CHECK(even_ranges(0, 2, 4) == std::vector<Range>{{0, 0}, {0, 0}});
  CHECK(even_ranges(12288, 3, 4096) == std::vector<Range>{{0, 4096}, {4096, 8192}, {8192, 12288}});
}

TEST_CASE("a sum of lanes does not depend on how many ranks hold them") {
  // Eight lanes, an aligned block of them on each rank, summed there by the same tree.
  constexpr std::int64_t kElements = 9001;
  const auto lane = [](int l, std::int64_t i) { return 1.0f / static_cast<float>(1 + l * 5 + i % 1013); };
  std::vector<float> first;
  for (const int ranks : {1, 2, 4, 8}) {
    std::vector<float> result(kElements);
    test::with_ranks(ranks, [&](Communicator& comm) {
      Rank rank(comm);
      const core::Tensor tensor = rank.tensor(kElements);
      const int mine = 8 / ranks;
      for (std::int64_t i = 0; i < kElements; ++i) {
        std::vector<float> terms;
        for (int l = 0; l < mine; ++l) terms.push_back(lane(comm.rank() * mine + l, i));
        for (std::size_t d = 1; d < terms.size(); d *= 2) {
          for (std::size_t l = 0; l + d < terms.size(); l += 2 * d) terms[l] += terms[l + d];
        }
        tensor.view.data<float>()[i] = terms[0];
      }
      const std::vector<Range> owned = even_ranges(kElements, ranks, 4096);
      const Range part = owned[static_cast<std::size_t>(comm.rank())];
      const core::Tensor shard = rank.tensor(part.size());
      rank.collectives
          ->reduce_scatter_sum(std::span(&tensor.view, 1), owned, shard.view, core::Accumulate::kOverwrite,
                               Category::kGradients)
          .wait();
      std::copy_n(shard.view.data<float>(), part.size(), result.begin() + part.begin);
    });
    if (first.empty()) first = result;
    CHECK(result == first);
  }
}

TEST_CASE("a shard may lie where this rank's part of the tensor does") {
  test::with_ranks(3, [](Communicator& comm) {
    Rank rank(comm);
    const core::Tensor tensor = rank.tensor(10'000);
    std::fill_n(tensor.view.data<float>(), 10'000, static_cast<float>(1 + comm.rank()));
    const std::vector<Range> owned = even_ranges(10'000, 3, 4096);
    const Range part = owned[static_cast<std::size_t>(comm.rank())];
    const core::TensorView shard = tensor.view.slice(0, part.begin, part.end);
    rank.collectives
        ->reduce_scatter_sum(std::span(&tensor.view, 1), owned, shard, core::Accumulate::kOverwrite,
                             Category::kGradients)
        .wait();
    rank.collectives->all_gather(shard, owned, std::span(&tensor.view, 1), Category::kParameters).wait();
    for (int i = 0; i < 10'000; ++i) {
      if (tensor.view.data<float>()[i] != 6) throw core::Error("element " + std::to_string(i));
    }
  });
}

TEST_CASE("ranks that disagree are named") {
  const auto run = [](auto work) {
    test::with_ranks(2, [&](Communicator& comm) {
      Rank rank(comm);
      work(rank, comm.rank());
    });
  };
  CHECK_THROWS_WITH(run([](Rank& rank, int me) {
                      const core::Tensor tensor = rank.tensor(me == 0 ? 100 : 101);
                      rank.collectives->all_reduce_sum(std::span(&tensor.view, 1), Category::kGradients).wait();
                    }),
                    Contains("data axis: all_reduce_sum: ranks disagree: rank ") && Contains("sends 101 elements") &&
                        Contains("sends 100 elements"));
  CHECK_THROWS_WITH(run([](Rank& rank, int me) {
                      const core::Tensor tensor = rank.tensor(100, me == 0 ? Dtype::kFloat32 : Dtype::kBfloat16);
                      rank.collectives->broadcast(std::span(&tensor.view, 1), 0, Category::kGradients).wait();
                    }),
                    Contains("broadcast of fp32") && Contains("broadcast of bf16"));
  CHECK_THROWS_WITH(run([](Rank& rank, int me) {
                      const core::Tensor tensor = rank.tensor(100);
                      rank.collectives->broadcast(std::span(&tensor.view, 1), me, Category::kGradients).wait();
                    }),
                    Contains("ranks disagree") && Contains("of other sizes or ranges"));
  CHECK_THROWS_WITH(run([](Rank& rank, int me) {
                      const core::Tensor tensor = rank.tensor(100);
                      if (me == 0) {
                        rank.collectives->broadcast(std::span(&tensor.view, 1), 0, Category::kGradients).wait();
                      } else {
                        rank.collectives->all_reduce_sum(std::span(&tensor.view, 1), Category::kGradients).wait();
                      }
                    }),
                    Contains("broadcast of fp32") && Contains("all_reduce_sum of fp32"));
  CHECK_THROWS_WITH(run([](Rank& rank, int me) {
                      const core::Tensor tensor = rank.tensor(100);
                      const std::vector<Range> owned = {{0, me == 0 ? 50 : 60}, {me == 0 ? 50 : 60, 100}};
                      rank.collectives
                          ->all_gather(tensor.view.slice(0, 0, owned[static_cast<std::size_t>(me)].size()), owned,
                                       std::span(&tensor.view, 1), Category::kGradients)
                          .wait();
                    }),
                    Contains("ranks disagree") && Contains("of other sizes or ranges"));
  CHECK_THROWS_WITH(run([](Rank& rank, int me) {
                      const core::Tensor tensor = rank.tensor(me == 0 ? 100 : 90);
                      if (me == 0) rank.collectives->send(tensor.view, 1, Category::kActivations).wait();
                      if (me == 1) rank.collectives->receive(tensor.view, 0, Category::kActivations).wait();
                    }),
                    Contains("sends 100 elements") && Contains("wants 90"));
}

TEST_CASE("an operation that is given up fails those after it, and leaves its tensors alone") {
  std::atomic<bool> refused = false;
  test::with_ranks(2, [&](Communicator& comm) {
    if (comm.rank() == 1) return;
    Rank rank(comm);
    {
      const core::Tensor tensor = rank.tensor(1000);
      const Pending never = rank.collectives->receive(tensor.view, 1, Category::kActivations);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    const core::Tensor tensor = rank.tensor(1000);
    try {
      rank.collectives->all_reduce_sum(std::span(&tensor.view, 1), Category::kGradients).wait();
    } catch (const core::Error& error) {
      refused = std::string(error.what()).find("given up") != std::string::npos;
    }
  });
  CHECK(refused);
}

TEST_CASE("collectives that end before their operations fail them") {
  std::atomic<bool> failed = false;
  test::with_ranks(2, [&](Communicator& comm) {
    if (comm.rank() == 1) return;
    Rank rank(comm);
    const core::Tensor tensor = rank.tensor(1000);
    Pending never = rank.collectives->receive(tensor.view, 1, Category::kActivations);
    rank.collectives.reset();
    try {
      never.wait();
    } catch (const core::Error&) {
      failed = true;
    }
  });
  CHECK(failed);
}

TEST_CASE("a rank that fails fails those that wait for it") {
  CHECK_THROWS_WITH(
      test::with_ranks(3,
                       [](Communicator& comm) {
                         if (comm.rank() == 1) throw core::Error("disk on fire");
                         Rank rank(comm);
                         const core::Tensor tensor = rank.tensor(1000);
                         rank.collectives->all_reduce_sum(std::span(&tensor.view, 1), Category::kGradients).wait();
                       }),
      Contains("disk on fire"));
}

TEST_CASE("arguments that cannot be are refused at the call") {
  const auto comm = single();
  Rank rank(*comm);
  const core::Tensor tensor = rank.tensor(100), half = rank.tensor(100, Dtype::kBfloat16);
  const core::Tensor integers = rank.tensor(100, Dtype::kInt32);
  Collectives& collectives = *rank.collectives;
  const auto category = Category::kGradients;
  const std::vector<core::TensorView> mixed = {tensor.view, half.view};
  CHECK_THROWS_WITH(collectives.all_reduce_sum(mixed, category), Contains("of one dtype"));
  CHECK_THROWS_WITH(collectives.all_reduce_sum(std::span(&integers.view, 1), category), Contains("floating-point"));
  const core::Tensor fp16 = rank.tensor(100, Dtype::kFloat16);
  CHECK_THROWS_WITH(collectives.all_reduce_sum(std::span(&fp16.view, 1), category), Contains("fp32 or bf16"));
  const core::TensorView strided(tensor.view.raw(), Dtype::kFloat32, Shape{50}, std::vector<std::int64_t>{2});
  CHECK_THROWS_WITH(collectives.all_reduce_sum(std::span(&strided, 1), category), Contains("contiguous"));
  const std::vector<Range> whole = {{0, 100}}, outside = {{0, 101}}, two = {{0, 50}, {50, 100}};
  const auto scatter = [&](const std::vector<Range>& owned, const core::TensorView& shard) {
    collectives.reduce_scatter_sum(std::span(&tensor.view, 1), owned, shard, core::Accumulate::kAdd, category);
  };
  CHECK_THROWS_WITH(scatter(outside, tensor.view), Contains("within the tensors"));
  CHECK_THROWS_WITH(scatter(two, tensor.view), Contains("one range for each rank"));
  CHECK_THROWS_WITH(scatter(whole, tensor.view.slice(0, 0, 99)), Contains("as many elements"));
  CHECK_THROWS_WITH(scatter(whole, half.view), Contains("must be fp32"));
  CHECK_THROWS_WITH(collectives.broadcast(std::span(&tensor.view, 1), 1, category), Contains("root must be a rank"));
  CHECK_THROWS_WITH(collectives.send(tensor.view, 0, category), Contains("another rank"));
  CHECK_THROWS_WITH(collectives.receive(tensor.view, 3, category), Contains("another rank"));
}

TEST_CASE("split refuses lists that are none") {
  CHECK_THROWS_AS(single()->split(std::vector<int>{1}), core::Error);
  CHECK_THROWS_AS(single()->split(std::vector<int>{0, 0}), core::Error);
  CHECK_THROWS_WITH(
      test::with_ranks(
          2, [](Communicator& comm) { comm.split(comm.rank() == 0 ? std::vector<int>{0} : std::vector<int>{0}); }),
      Contains("split: {0} is no list of different ranks of 2 with rank 1 among them"));
}

}  // namespace
}  // namespace braise::comm
