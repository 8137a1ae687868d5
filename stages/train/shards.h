// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/comm/collectives.h"
#include "stages/shared/model/part.h"
#include "stages/shared/model/units.h"

namespace braise::train {

/// Elements [begin, end) of a parameter that one rank owns, cut at multiples of core::kReductionBlock.
struct Segment {
  std::size_t parameter = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  int unit = 0;
  std::int64_t offset = 0;  ///< of `begin` in the unit's memory
  std::int64_t elements() const { return end - begin; }
};

/// Which rank owns which elements of a model: the memory of every unit is cut into a range for each rank, as even as
/// whole blocks of reductions allow. Small units leave ranks without any.
class Shards {
 public:
  Shards(const model::Units& units, std::span<const model::PartSpec> specs, int ranks);

  int ranks() const { return ranks_; }

  /// Of a unit's memory, by rank; what lies between its tensors goes with what is before it.
  std::span<const comm::Range> ranges(int unit) const { return ranges_[static_cast<std::size_t>(unit)]; }
  comm::Range range(int unit, int rank) const { return ranges(unit)[static_cast<std::size_t>(rank)]; }

  /// What a rank owns of the parameters, in the order of units and of their memory.
  const std::vector<Segment>& segments(int rank) const { return segments_[static_cast<std::size_t>(rank)]; }

 private:
  int ranks_;
  std::vector<std::vector<comm::Range>> ranges_;  // by unit
  std::vector<std::vector<Segment>> segments_;    // by rank
};

}  // namespace braise::train
