// SPDX-License-Identifier: Apache-2.0
#include "runner/recipe/units.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "runner/recipe/pattern.h"
#include "schemas/schemas.h"

namespace braise::recipe {
namespace {

/// Whether the published schema takes the text for such a quantity.
bool published(const char* unit, const std::string& text) {
  const nlohmann::json& definition = schemas::schema("types.schema.json")["definitions"][unit];
  return Pattern(definition["pattern"].get<std::string>()).matches(text);
}

struct Case {
  const char* text;
  double value;
};

void check_good(Unit unit, const char* name, const std::vector<Case>& cases) {
  for (const Case& entry : cases) {
    INFO(entry.text);
    const Quantity quantity = parse_quantity(unit, entry.text);
    CHECK(quantity.ok);
    CHECK(quantity.value == Approx(entry.value).epsilon(1e-15));
    CHECK(published(name, entry.text));
  }
}

void check_bad(Unit unit, const char* name, const std::vector<const char*>& texts) {
  for (const char* text : texts) {
    INFO(text);
    const Quantity quantity = parse_quantity(unit, text);
    CHECK_FALSE(quantity.ok);
    CHECK_FALSE(quantity.problem.empty());
    CHECK_FALSE(published(name, text));
  }
}

TEST_CASE("sizes") {
  check_good(
      Unit::bytes, "bytes",
      {{"0B", 0}, {"5 B", 5}, {"1kB", 1000}, {"1 KiB", 1024}, {"1.5GiB", 1610612736}, {"2TB", 2e12}, {"1.1KiB", 1126}});
  check_bad(Unit::bytes, "bytes",
            {"", "5", "GiB", "-1GiB", "1gib", "1Gib", "1GB ", " 1GB", "1  GB", "1,5GB", "1.GB", ".5GB", "1e3B", "1KB",
             "1K", "1GiB2", "90s", "1GiB 2MiB", "0x1B"});
}

TEST_CASE("times") {
  check_good(Unit::seconds, "seconds",
             {{"90s", 90},
              {"1.5 h", 5400},
              {"250ms", 0.25},
              {"1h30min", 5400},
              {"1d 2h 3min 4s 5ms", 93784.005},
              {"01:30:00", 5400},
              {"100:00:01", 360001},
              {"0s", 0}});
  check_bad(Unit::seconds, "seconds",
            {"", "90", "s", "90 S", "1m", "1h30", "-1s", "1h  30min", "1h ", "1:2:3", "01:60:00", "01:00",
             "::", "1:00:00:00", "2GiB", "1e3s", "01:30:00s"});
}

TEST_CASE("counts") {
  check_good(Unit::count, "count",
             {{"10k", 1e4},
              {"10 k", 1e4},
              {"1.5M tokens", 1.5e6},
              {"1e6", 1e6},
              {"2.5e3 steps", 2500},
              {"7", 7},
              {"1.1k", 1100},
              {"3T", 3e12},
              {"10k tokens", 1e4}});
  check_bad(Unit::count, "count",
            {"", "k", "10K", "10kk", "10ktokens", "-1", "10 Tokens", "1e", "10k ", "10k  tokens"});
  CHECK_FALSE(parse_quantity(Unit::count, "1.5").ok);
  CHECK_FALSE(parse_quantity(Unit::count, "1.0005k").ok);
}

TEST_CASE("what is wrong with a unit is said") {
  CHECK(parse_quantity(Unit::bytes, "2Gib").remedy == "did you mean `GiB`?");
  CHECK(parse_quantity(Unit::bytes, "90s").problem == "is a time");
  CHECK(parse_quantity(Unit::seconds, "2GiB").problem == "is a size");
  CHECK(parse_quantity(Unit::seconds, "5 weeks").remedy == "the units are ms, s, min, h, d");
  CHECK(parse_quantity(Unit::bytes, "4096").remedy == "add a unit or remove the quotes");
}

TEST_CASE("bounds are shown in the unit's own words") {
  CHECK(format_quantity(Unit::bytes, 4096) == "4KiB");
  CHECK(format_quantity(Unit::bytes, 1099511627776) == "1TiB");
  CHECK(format_quantity(Unit::bytes, 1000) == "1000 bytes");
  CHECK(format_quantity(Unit::seconds, 0.5) == "0.5s");
  CHECK(format_quantity(Unit::none, 3) == "3");
}

}  // namespace
}  // namespace braise::recipe
