// SPDX-License-Identifier: Apache-2.0
#include "stages/train/lanes.h"

#include <catch2/catch.hpp>
#include <optional>

#include "kernels/core/add.h"
#include "stages/train/settings.h"

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

TEST_CASE("lanes are added by a pairwise tree, whatever part of it a rank has") {
  core::MemoryLedger ledger;
  core::Arena arena(core::kCpu, core::Space::kDevice, ledger);
  const auto stream = core::make_stream(arena);
  constexpr std::int64_t kElements = 5;
  const auto sum_of = [&](std::int64_t begin, std::int64_t end) {
    core::Tensor tensor = arena.tensor(core::Dtype::kFloat32, core::Shape{kElements}, core::Category::kGradients, "g");
    const std::vector<core::TensorView> accumulators{tensor.view};
    GradientLanes lanes(*stream, accumulators, end - begin);
    for (int repeat = 0; repeat < 2; ++repeat) {  // the second step must not see the first
      lanes.begin();
      for (std::int64_t lane = begin; lane < end; ++lane) {
        for (std::int64_t i = 0; i < kElements; ++i) {
          CHECK(tensor.view.data<float>()[i] == 0);
          tensor.view.data<float>()[i] += term(lane, i);
        }
        lanes.lane_done();
      }
    }
    const float* const values = tensor.view.data<float>();
    return std::vector<float>(values, values + kElements);
  };
  const std::vector<float> whole = sum_of(0, 8);
  const std::vector<float> left = sum_of(0, 4), right = sum_of(4, 8);
  for (std::int64_t i = 0; i < kElements; ++i) {
    const auto t = [&](std::int64_t lane) { return term(lane, i); };
    const auto at = static_cast<std::size_t>(i);
    CHECK(whole[at] == ((t(0) + t(1)) + (t(2) + t(3))) + ((t(4) + t(5)) + (t(6) + t(7))));
    CHECK(whole[at] == left[at] + right[at]);
  }
  CHECK(sum_of(3, 4)[0] == term(3, 0));
}

}  // namespace
}  // namespace braise::train
