// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace braise::recipe {

/// What a number counts, where its schema says so (`x-unit`).
enum class Unit { none, bytes, seconds, count };

/// A number written with its unit.
struct Quantity {
  bool ok = false;
  double value = 0;     ///< in bytes, seconds, or things; exact for whole numbers below 2^53
  std::string problem;  ///< where not ok: "has the unknown unit `Gib`"
  std::string remedy;   ///< "did you mean `GiB`?"; empty where what the unit is like says it all
};

/// Reads "2GiB" (Unit::bytes; fractions are cut to whole bytes), "1h30min" or "01:30:00" (Unit::seconds), "1.5M tokens"
/// (Unit::count). The forms are those of schemas/types.schema.json.
Quantity parse_quantity(Unit unit, const std::string& text);

/// "a size such as `64MiB`", "a time such as `1h30min`", "a count such as `10k`".
std::string describe(Unit unit, const std::string& example);

/// A bound in the unit's own words: 4096 bytes is "4KiB".
std::string format_quantity(Unit unit, double value);

}  // namespace braise::recipe
