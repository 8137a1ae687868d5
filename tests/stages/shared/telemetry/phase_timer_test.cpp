// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/telemetry/phase_timer.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <thread>

#include "tests/support/support.h"

namespace braise::telemetry {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_CASE("time belongs to the innermost phase, and all phases add up to all time") {
  const Clock::time_point start;
  PhaseTimer timer(start);
  timer.enter(Phase::kBackward, start + seconds(1));
  timer.enter(Phase::kCommunication, start + seconds(3));
  timer.leave(start + seconds(6));
  timer.leave(start + seconds(10));
  timer.count_step();
  timer.enter(Phase::kOptimizer, start + seconds(11));
  const PhaseTotals open = timer.totals(start + seconds(16));
  CHECK(open.of(Phase::kOptimizer) == 5);
  timer.leave(start + seconds(18));
  timer.count_step();
  const PhaseTotals totals = timer.totals(start + seconds(20));
  CHECK(totals.of(Phase::kBackward) == 6);
  CHECK(totals.of(Phase::kCommunication) == 3);
  CHECK(totals.of(Phase::kOptimizer) == 7);
  CHECK(totals.of(Phase::kOther) == 4);
  CHECK(totals.of(Phase::kForward) == 0);
  CHECK(totals.total_s() == 20);
  CHECK(totals.steps == 2);
}

TEST_CASE("what is done for a validation or a checkpoint belongs to that") {
  for (const Phase whole : {Phase::kValidation, Phase::kCheckpoint}) {
    const Clock::time_point start;
    PhaseTimer timer(start);
    timer.enter(whole, start + seconds(1));
    timer.enter(Phase::kForward, start + seconds(2));
    timer.enter(Phase::kCommunication, start + seconds(3));
    timer.leave(start + seconds(4));
    timer.leave(start + seconds(6));
    timer.leave(start + seconds(7));
    timer.enter(Phase::kForward, start + seconds(7));
    timer.leave(start + seconds(9));
    const PhaseTotals totals = timer.totals(start + seconds(9));
    CHECK(totals.of(whole) == 6);
    CHECK(totals.of(Phase::kForward) == 2);
    CHECK(totals.of(Phase::kCommunication) == 0);
    CHECK(totals.of(Phase::kOther) == 1);
  }
}

TEST_CASE("a scope is timed whether or not it is traced, and ends with an exception too") {
  const test::TemporaryFolder folder;
  Profile profile{PhaseTimer(), Trace(folder.path(), 0, {}, Clock::now())};
  try {
    const Scope outer(profile, Phase::kForward, "forward");
    const Scope inner(profile, Phase::kCommunication, "gather");
    std::this_thread::sleep_for(milliseconds(3));
    throw 1;
  } catch (int) {
  }
  std::this_thread::sleep_for(milliseconds(2));
  const PhaseTotals totals = profile.phases.totals();
  CHECK(totals.of(Phase::kCommunication) >= 0.003);
  CHECK(totals.of(Phase::kForward) < totals.of(Phase::kCommunication));
  CHECK(totals.of(Phase::kOther) >= 0.002);
}

TEST_CASE("phases have the names of metrics, and totals travel as text") {
  CHECK(name(Phase::kData) == "data");
  CHECK(name(Phase::kOther) == "other");
  PhaseTotals totals;
  totals.seconds = {0.1, 1.0 / 3, 2, 3, 4, 5, 6, 7};
  totals.steps = 12;
  const PhaseTotals back = PhaseTotals::from_text(totals.to_text());
  CHECK(back.seconds == totals.seconds);
  CHECK(back.steps == 12);
}

}  // namespace
}  // namespace braise::telemetry
