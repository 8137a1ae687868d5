// SPDX-License-Identifier: Apache-2.0
#include "stages/train/lanes.h"

#include <catch2/catch.hpp>
#include <optional>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/half.h"
#include "stages/train/settings.h"
#include "tests/support/thread_ranks.h"

namespace braise::train {
namespace {

std::optional<Lanes> dealt(std::int64_t global, std::int64_t micro, std::int64_t lanes, int ranks,
                           std::string* why = nullptr) {
  std::string key, problem, remedy;
  const std::optional<Lanes> result = deal(global, micro, lanes, ranks, key, problem, remedy);
  CHECK(result.has_value() == problem.empty());
  if (why != nullptr) *why = key + ": " + problem + "; " + remedy;
  return result;
}

TEST_CASE("micro-batches are dealt to lanes, and lanes to ranks") {
  const auto lanes = dealt(64, 2, 0, 2);
  REQUIRE(lanes);
  CHECK(lanes->count == 8);
  CHECK(lanes->micro_batches == 4);
  CHECK(lanes->lanes_per_rank == 4);
  CHECK(dealt(12, 2, 0, 1)->count == 2);
  CHECK(dealt(3, 1, 0, 1)->count == 1);
  CHECK(dealt(64, 2, 32, 32)->lanes_per_rank == 1);
  CHECK(dealt(64, 2, 1, 1)->micro_batches == 32);
}

TEST_CASE("what cannot be dealt is refused with the key to blame") {
  std::string why;
  CHECK_FALSE(dealt(10, 4, 0, 1, &why));
  CHECK(why == "/batch/micro: is 4, which does not divide batch.global 10; must divide it");
  CHECK_FALSE(dealt(16, 2, 3, 1, &why));
  CHECK_FALSE(dealt(12, 2, 4, 1, &why));
  CHECK(why.starts_with("/numerics/lanes: is 4; must be a power of two that divides the 6 micro-batches"));
  CHECK_FALSE(dealt(12, 2, 0, 3, &why));
  CHECK(why.starts_with("/batch: leaves 2 lanes of 3 micro-batches for 3 ranks; "));
  CHECK_FALSE(dealt(64, 2, 2, 4, &why));
  CHECK(why.starts_with("/numerics/lanes: leaves 2 lanes"));
}

/// What one lane's backward passes add.
float term(std::int64_t lane, std::int64_t i) {
  return 1.0f / static_cast<float>(3 + lane * 7 + i) * (lane % 3 == 0 ? 1e4f : 1.0f);
}

/// Rounded to the dtype.
float in(core::Dtype dtype, float value) {
  return dtype == core::Dtype::kFloat32 ? value : core::to_float(core::to_bfloat16(value));
}

constexpr std::int64_t kElements = 700;

/// The sum of lanes [begin, end) on one rank, in the order of the definition.
std::vector<float> tree(std::int64_t begin, std::int64_t end, core::Dtype dtype) {
  std::vector<float> sum;
  if (end - begin == 1) {
    for (std::int64_t i = 0; i < kElements; ++i) sum.push_back(in(dtype, term(begin, i)));
    return sum;
  }
  sum = tree(begin, (begin + end) / 2, dtype);
  const std::vector<float> right = tree((begin + end) / 2, end, dtype);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] = in(dtype, sum[i] + right[i]);
  return sum;
}

TEST_CASE("lanes are added by a pairwise tree, whatever part of it a rank has, in fp32 and bf16") {
  for (const core::Dtype dtype : {core::Dtype::kFloat32, core::Dtype::kBfloat16}) {
    for (const int ranks : {1, 2, 4, 8}) {
      INFO(core::name(dtype) << " on " << ranks << " ranks");
      std::vector<std::vector<float>> sums(static_cast<std::size_t>(ranks));
      std::vector<std::int64_t> held(sums.size());
      test::with_ranks(ranks, [&](comm::Communicator& comm) {
        core::MemoryLedger ledger;
        core::Arena arena(core::kCpu, core::Space::kDevice, ledger);
        const auto stream = core::make_stream(arena);
        const core::Shape shapes[] = {core::Shape{5}, core::Shape{kElements - 5}};
        std::vector<core::Tensor> tensors;
        std::vector<core::TensorView> accumulators;
        for (const core::Shape& shape : shapes) {
          tensors.push_back(arena.tensor(core::Dtype::kFloat32, shape, core::Category::kParameters, "g"));
          accumulators.push_back(tensors.back().view);
        }
        const auto element = [&](std::int64_t i) -> float& {
          return i < 5 ? accumulators[0].data<float>()[i] : accumulators[1].data<float>()[i - 5];
        };
        const std::int64_t mine = 8 / ranks;
        GradientLanes lanes(*stream, accumulators, mine, dtype);
        for (int repeat = 0; repeat < 2; ++repeat) {  // the second step must not see the first
          lanes.begin();
          for (std::int64_t lane = comm.rank() * mine; lane < (comm.rank() + 1) * mine; ++lane) {
            for (std::int64_t i = 0; i < kElements; ++i) {
              if (element(i) != 0) throw core::Error("an accumulator is not zero");
              element(i) += term(lane, i);
            }
            lanes.lane_done();
          }
          lanes.exchange(comm);
        }
        const auto rank = static_cast<std::size_t>(comm.rank());
        for (std::int64_t i = 0; i < kElements; ++i) sums[rank].push_back(element(i));
        held[rank] = ledger.peak_bytes(core::Space::kDevice, core::Category::kGradients);
      });
      const std::vector<float> expected = tree(0, 8, dtype);
      for (const std::vector<float>& sum : sums) CHECK(sum == expected);
      // log2(lanes of a rank) sums wait, each in two allocations, which are rounded up.
      const std::int64_t waiting = ranks == 1 ? 3 : ranks == 2 ? 2 : ranks == 4 ? 1 : 0;
      const std::int64_t bytes = waiting * kElements * core::bits(dtype) / 8;
      CHECK(held[0] >= bytes);
      CHECK(held[0] <= bytes + 2 * waiting * 256);
    }
  }
}

}  // namespace
}  // namespace braise::train
