// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/tier.h"

#include <catch2/catch.hpp>
#include <cstdlib>

#include "kernels/core/error.h"

using namespace braise::core;

TEST_CASE("tiers have names that go both ways") {
  for (const Tier one : {Tier::kBaseline, Tier::kAvx2, Tier::kAvx512, Tier::kAvx512Bf16, Tier::kAmx}) {
    CHECK(tier_named(name(one)) == one);
  }
  CHECK_FALSE(tier_named("sse9").has_value());
}

TEST_CASE("the tier in use is the one asked for") {
  const char* const asked = std::getenv("BRAISE_TEST_TIER");
  CHECK(tier() == (asked != nullptr ? tier_named(asked) : detected_tier()));
  CHECK(tier() <= detected_tier());
}

TEST_CASE("a tier the processor lacks is refused") {
  if (detected_tier() == Tier::kAmx) {
    SUCCEED("this processor has every tier");
    return;
  }
  CHECK_THROWS_WITH(pin_tier(Tier::kAmx), Catch::Contains("lacks the instructions of tier amx"));
}

TEST_CASE("a settled tier stays") {
  const Tier now = settle_tier();
  CHECK(now == tier());
  CHECK_NOTHROW(pin_tier(now));
  const Tier other = now == Tier::kBaseline ? Tier::kAvx2 : Tier::kBaseline;
  if (other > detected_tier()) return;
  CHECK_THROWS_WITH(pin_tier(other), Catch::Contains("operations were prepared for"));
}
