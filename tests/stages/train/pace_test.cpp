// SPDX-License-Identifier: Apache-2.0
#include "stages/train/pace.h"

#include <catch2/catch.hpp>

namespace braise::train {
namespace {

TEST_CASE("how long a step and a save will take is known once both were measured") {
  Pace pace;
  CHECK_FALSE(pace.next_s(false));
  pace.note_step(2);
  CHECK_FALSE(pace.next_s(false));
  pace.note_save(10);
  REQUIRE(pace.next_s(false));
  CHECK(*pace.next_s(false) == Approx(1.25 * 12));
  CHECK(*pace.next_s(true) == Approx(1.25 * 12));  // what was not measured is taken for nothing
  pace.note_validation(4);
  CHECK(*pace.next_s(true) == Approx(1.25 * 16));
  CHECK(*pace.next_s(false) == Approx(1.25 * 12));
}

TEST_CASE("the longest of the latest few counts, and what was long ago does not") {
  Pace pace;
  pace.note_save(1);
  pace.note_step(100);
  pace.note_step(3);
  CHECK(*pace.next_s(false) == Approx(1.25 * 101));
  for (int i = 0; i < 7; ++i) pace.note_step(2);
  CHECK(*pace.next_s(false) == Approx(1.25 * 4));
  pace.note_step(2);
  CHECK(*pace.next_s(false) == Approx(1.25 * 3));
}

}  // namespace
}  // namespace braise::train
