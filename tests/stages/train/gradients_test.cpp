// SPDX-License-Identifier: Apache-2.0
#include "stages/train/gradients.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/stages/shared/model/small_models.h"
#include "tests/support/support.h"
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

/// What the backward pass of a lane's micro-batch adds.
float term(std::int64_t lane, std::int64_t micro_batch, std::int64_t i) {
  const float size = lane % 3 == 0 ? 1e4f : 1.0f;
  return size / static_cast<float>(3 + lane * 7 + micro_batch * 11 + i % 97);
}

struct Tried {
  std::int64_t lanes, micro_batches;
  Reduction reduction;
  core::Dtype dtype = core::Dtype::kFloat32;
  float rounded(float x) const { return dtype == core::Dtype::kFloat32 ? x : core::to_float(core::to_bfloat16(x)); }
};

/// The sum that Reduction promises, in the order it promises.
float expected(const Tried& tried, std::int64_t i) {
  const auto lane = [&](std::int64_t number, std::int64_t begin, std::int64_t end) {
    float sum = 0;
    for (std::int64_t m = begin; m < end; ++m) sum += term(number, m, i);
    return sum;
  };
  const auto tree = [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> sums;
    for (std::int64_t l = 0; l < tried.lanes; ++l) sums.push_back(tried.rounded(lane(l, begin, end)));
    for (; sums.size() > 1; sums.resize(sums.size() / 2)) {
      for (std::size_t k = 0; 2 * k < sums.size(); ++k) sums[k] = tried.rounded(sums[2 * k] + sums[2 * k + 1]);
    }
    return sums.front();
  };
  if (tried.reduction == Reduction::kStep) return tree(0, tried.micro_batches);
  float sum = tree(0, 1);
  for (std::int64_t m = 1; m < tried.micro_batches; ++m) sum += tree(m, m + 1);
  return sum;
}

/// Adds all terms of a rank's lanes to the gradients of a decoder, twice; what is wrong then.
std::string wrong_sums(comm::Communicator& comm, const model::Config& config, const Tried& tried, int zero, Home home,
                       const std::filesystem::path& folder) {
  class Keeper final : public model::UnitKeeper {
    void need_values(int, const model::Packs&) override {}
    void values_used(int) override {}
    void need_gradients(int) override {}
    void gradients_added(int) override {}
  };
  core::MemoryLedger ledger;
  core::Arena arena(core::kCpu, core::Space::kDevice, ledger), host(core::kCpu, core::Space::kHost, ledger);
  const auto stream = core::make_stream(arena);
  Keeper keeper;
  model::Decoder decoder(*stream, config, {.compute = core::Dtype::kFloat32, .keeper = &keeper});
  const model::Units& units = decoder.units();
  const std::vector<model::PartSpec> specs = model::part_specs(config, decoder.part());
  const Shards owners(units, specs, zero == 0 ? 1 : comm.size());
  const int owner = zero == 0 ? 0 : comm.rank();
  const std::int64_t own_lanes = tried.lanes / comm.size();
  std::unique_ptr<comm::Collectives> axis;
  if (comm.size() > 1) axis = std::make_unique<comm::Collectives>(comm, arena, "data");
  Gradients gradients(*stream, axis.get(), decoder, owners, owner,
                      {zero,
                       tried.reduction,
                       tried.dtype,
                       {tried.lanes, tried.micro_batches, own_lanes},
                       home,
                       &host,
                       {folder, [](std::string_view) {}}});
  std::string wrong;
  for (int repeat = 0; repeat < 2; ++repeat) {  // the second step must not see the first
    gradients.begin_step();
    for (std::int64_t pass = 0; pass < own_lanes * tried.micro_batches; ++pass) {
      const bool by_lane = tried.reduction == Reduction::kStep;
      const std::int64_t lane = by_lane ? pass / tried.micro_batches : pass % own_lanes;
      const std::int64_t m = by_lane ? pass % tried.micro_batches : pass / own_lanes;
      gradients.begin_micro_batch(lane, m);
      for (int unit = units.size() - 1; unit >= 0; --unit) {
        gradients.need(unit);
        const core::TensorView sum = decoder.accumulators()[static_cast<std::size_t>(unit)];
        for (std::int64_t i = 0; i < sum.elements(); ++i) {
          sum.data<float>()[i] += term(comm.rank() * own_lanes + lane, m, i);
        }
        gradients.added(unit);
      }
    }
    gradients.finish();
    for (const Segment& segment : owners.segments(owner)) {
      const core::TensorView part = gradients.part(segment);
      const float times = segment.unit == units.tokens && units.tied_head >= 0 ? 2.0f : 1.0f;
      for (std::int64_t i = 0; i < part.elements(); ++i) {
        const float given = part.dtype() == core::Dtype::kFloat32 ? part.data<float>()[i]
                                                                  : core::to_float(part.data<core::Bfloat16>()[i]);
        if (given != times * expected(tried, segment.offset + i) && wrong.empty()) {
          wrong = units.at(segment.unit).name + " element " + std::to_string(segment.offset + i);
        }
      }
    }
    gradients.end_step();
    if (ledger.current_bytes(core::Space::kDevice, core::Category::kGradients) != 0) wrong += " memory is kept";
  }
  return wrong;
}

TEST_CASE("gradients are added in one order, whatever a rank has of them and holds") {
  model::Config config = test::small_gpt2();
  config.vocabulary = 700;  // several blocks
  const test::TemporaryFolder folder;
  for (const Tried& tried : std::vector<Tried>{{8, 1, Reduction::kStep},
                                               {8, 3, Reduction::kStep},
                                               {4, 3, Reduction::kMicro},
                                               {4, 1, Reduction::kMicro},
                                               {4, 2, Reduction::kStep, core::Dtype::kBfloat16},
                                               {4, 1, Reduction::kStep, core::Dtype::kBfloat16},
                                               {8, 3, Reduction::kMicro, core::Dtype::kBfloat16}}) {
    for (const int zero : {0, 1, 2, 3}) {
      for (const int ranks : {1, 2, 4}) {
        for (const Home home : {Home::kDevice, Home::kHost, Home::kNvme}) {
          const bool apart = zero >= 2 || tried.reduction == Reduction::kMicro;
          if (home != Home::kDevice && (!apart || ranks != 2)) continue;
          std::vector<std::string> wrong(static_cast<std::size_t>(ranks));
          test::with_ranks(ranks, [&](comm::Communicator& comm) {
            wrong[static_cast<std::size_t>(comm.rank())] = wrong_sums(comm, config, tried, zero, home, folder.path());
          });
          INFO(tried.lanes << " lanes of " << tried.micro_batches << ", zero " << zero << ", " << ranks
                           << " ranks, home " << static_cast<int>(home));
          for (const std::string& one : wrong) CHECK(one == "");
        }
      }
    }
  }
}

}  // namespace
}  // namespace braise::train
