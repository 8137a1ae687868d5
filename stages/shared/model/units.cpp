// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/units.h"

#include <algorithm>
#include <map>

namespace braise::model {
namespace {

/// Adds a unit of the parameters that `belongs` tells of, those that are used as one next to each other.
template <class Belongs>
int add_unit(Units& units, std::string name, std::span<const PartSpec> specs, const Belongs& belongs) {
  std::map<Role, std::int64_t> sizes;  // of tensors that may hold several parameters
  for (const PartSpec& one : specs) {
    if (!belongs(one.spec)) continue;
    std::int64_t& size = sizes[one.spec.role];
    size = std::max(size, one.offset + one.cut.shape().elements());
  }
  Unit unit;
  unit.name = std::move(name);
  std::map<Role, std::int64_t> begins;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const ParameterSpec& spec = specs[i].spec;
    if (!belongs(spec)) continue;
    if (!begins.contains(spec.role)) {
      const std::int64_t begin = (unit.elements + kUnitAlignment - 1) / kUnitAlignment * kUnitAlignment;
      begins[spec.role] = begin;
      unit.elements = begin + sizes.at(spec.role);
    }
    unit.places.push_back({i, begins.at(spec.role) + specs[i].offset});
  }
  std::ranges::sort(unit.places, {}, &Unit::Place::offset);
  units.all.push_back(std::move(unit));
  return units.size() - 1;
}

}  // namespace

Units make_units(const Config& config, const Part& part, std::span<const PartSpec> specs) {
  Units units;
  const auto has_role = [](Role role) { return [role](const ParameterSpec& spec) { return spec.role == role; }; };
  const auto add_role = [&](const char* name, Role role) {
    const bool there = std::ranges::any_of(specs, has_role(role), &PartSpec::spec);
    return there ? add_unit(units, name, specs, has_role(role)) : -1;
  };
  units.tokens = add_role("tokens", Role::kTokens);
  units.positions = add_role("positions", Role::kPositions);
  units.first_block = units.size();
  for (std::int64_t layer = part.blocks.begin; layer < part.blocks.end; ++layer) {
    add_unit(units, "layer " + std::to_string(layer), specs,
             [&](const ParameterSpec& spec) { return spec.layer == layer; });
  }
  units.end = units.size();
  if (part.blocks.end < config.layers) return units;
  add_unit(units, "end", specs, [](const ParameterSpec& spec) {
    return spec.layer < 0 && spec.role != Role::kTokens && spec.role != Role::kPositions;
  });
  if (config.tied && part.blocks.begin == 0) {
    Unit head = units.at(units.tokens);
    head.name = "tied head";
    head.values = false;
    units.tied_head = units.size();
    units.all.push_back(std::move(head));
  }
  return units;
}

}  // namespace braise::model
