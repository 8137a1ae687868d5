// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "stages/shared/model/config.h"
#include "stages/shared/model/part.h"

namespace braise::model {

/// Tensors begin at multiples of so many elements of their unit's memory.
inline constexpr std::int64_t kUnitAlignment = 128;

/// Parameters that are needed together, in one piece of memory: it comes and goes as a whole.
struct Unit {
  struct Place {
    std::size_t parameter = 0;  ///< its number in part_specs
    std::int64_t offset = 0;    ///< of its first element
  };
  std::string name;           ///< "layer 3"
  std::vector<Place> places;  ///< in the order of their offsets
  std::int64_t elements = 0;  ///< with what lies between tensors so that they are aligned
  bool values = true;         ///< false: there is only a gradient, that of a tied head, which is kept apart
};

/// The units of a decoder: the embeddings, its blocks, and what follows them; of a part, those that it has.
struct Units {
  std::vector<Unit> all;
  int tokens = -1;     ///< -1: none
  int positions = -1;  ///< -1: none
  int first_block = 0;
  int end = 0;         ///< the last norm, and a head of its own; without a head, there is none of that number
  int tied_head = -1;  ///< -1: none, as also where the embedding is used as a head alone; placed as `tokens` is

  const Unit& at(int unit) const { return all[static_cast<std::size_t>(unit)]; }
  int size() const { return static_cast<int>(all.size()); }
};

/// The units of parameters, `specs` as part_specs gives them.
Units make_units(const Config& config, const Part& part, std::span<const PartSpec> specs);

}  // namespace braise::model
