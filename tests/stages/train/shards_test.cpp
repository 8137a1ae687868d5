// SPDX-License-Identifier: Apache-2.0
#include "stages/train/shards.h"

#include <catch2/catch.hpp>
#include <vector>

#include "kernels/core/reduce.h"
#include "tests/stages/shared/model/small_models.h"

namespace braise::train {
namespace {

TEST_CASE("every element of a model has one owner, whose shares are even to a block, and cut where blocks begin") {
  model::Config gpt2 = test::small_gpt2(), llama = test::small_llama();
  gpt2.vocabulary = 2000;
  llama.hidden = 96;
  llama.intermediate = 200;
  for (const model::Config& config : {gpt2, llama, test::small_everything()}) {
    const model::Part part = model::whole_of(config);
    const std::vector<model::PartSpec> specs = model::part_specs(config, part);
    const model::Units units = model::make_units(config, part, specs);
    for (const int ranks : {1, 2, 3, 4, 7, 64}) {
      const Shards shards(units, specs, ranks);
      for (int unit = 0; unit < units.size(); ++unit) {
        std::int64_t end = 0;
        for (int rank = 0; rank < ranks; ++rank) {
          const comm::Range range = shards.range(unit, rank);
          CHECK(range.begin == end);
          CHECK(range.size() <= units.at(unit).elements / ranks + core::kReductionBlock + 1);
          end = range.end;
        }
        CHECK(end == units.at(unit).elements);
      }
      std::vector<std::vector<int>> owners;
      for (const model::PartSpec& one : specs) {
        owners.emplace_back(static_cast<std::size_t>(one.cut.shape().elements()));
      }
      for (int rank = 0; rank < ranks; ++rank) {
        for (const Segment& segment : shards.segments(rank)) {
          const std::int64_t elements = specs[segment.parameter].cut.shape().elements();
          CHECK(segment.begin % core::kReductionBlock == 0);
          CHECK((segment.end == elements || segment.end % core::kReductionBlock == 0));
          const comm::Range range = shards.range(segment.unit, rank);
          CHECK(segment.offset >= range.begin);
          CHECK(segment.offset + segment.elements() <= range.end);
          for (std::int64_t i = segment.begin; i < segment.end; ++i) {
            ++owners[segment.parameter][static_cast<std::size_t>(i)];
          }
        }
      }
      for (const std::vector<int>& parameter : owners)
        CHECK(std::ranges::all_of(parameter, [](int n) { return n == 1; }));
      if (units.tied_head < 0) continue;
      for (int rank = 0; rank < ranks; ++rank) {
        CHECK(shards.range(units.tied_head, rank) == shards.range(units.tokens, rank));
      }
    }
  }
}

}  // namespace
}  // namespace braise::train
