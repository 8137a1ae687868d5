// SPDX-License-Identifier: Apache-2.0
#include "stages/train/shards.h"

#include <algorithm>

#include "kernels/core/reduce.h"

namespace braise::train {
namespace {

/// A unit's memory in as many ranges, each from the first edge of a block at or after its even share.
std::vector<comm::Range> cut(const model::Unit& unit, std::span<const model::PartSpec> specs, int ranks) {
  std::vector<std::int64_t> edges;
  for (const model::Unit::Place& place : unit.places) {
    const std::int64_t elements = specs[place.parameter].cut.shape().elements();
    for (std::int64_t begin = 0; begin < elements; begin += core::kReductionBlock) {
      edges.push_back(place.offset + begin);
    }
  }
  edges.push_back(unit.elements);
  std::vector<comm::Range> ranges;
  std::int64_t begin = 0;
  for (std::int64_t rank = 1; rank <= ranks; ++rank) {
    const std::int64_t end = *std::ranges::lower_bound(edges, unit.elements * rank / ranks);
    ranges.push_back({begin, end});
    begin = end;
  }
  return ranges;
}

}  // namespace

Shards::Shards(const model::Units& units, std::span<const model::PartSpec> specs, int ranks)
    : ranks_(ranks), segments_(static_cast<std::size_t>(ranks)) {
  for (int number = 0; number < units.size(); ++number) {
    const model::Unit& unit = units.at(number);
    ranges_.push_back(cut(unit, specs, ranks));
    if (!unit.values) continue;
    for (std::size_t rank = 0; rank < segments_.size(); ++rank) {
      const comm::Range range = ranges_.back()[rank];
      for (const model::Unit::Place& place : unit.places) {
        const std::int64_t begin = std::max(range.begin, place.offset);
        const std::int64_t end = std::min(range.end, place.offset + specs[place.parameter].cut.shape().elements());
        if (begin < end) {
          segments_[rank].push_back({place.parameter, begin - place.offset, end - place.offset, number, begin});
        }
      }
    }
  }
}

}  // namespace braise::train
