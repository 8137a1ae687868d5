// SPDX-License-Identifier: Apache-2.0
#include "stages/train/schedule.h"

#include <catch2/catch.hpp>
#include <cmath>

namespace braise::train {
namespace {

TEST_CASE("every schedule warms up in a straight line to its peak") {
  for (const ScheduleKind kind : {ScheduleKind::kConstant, ScheduleKind::kLinear, ScheduleKind::kCosine,
                                  ScheduleKind::kWarmupStableDecay, ScheduleKind::kInverseSquareRoot}) {
    const ScheduleSettings schedule{kind, 8, 0, 0.1};
    for (std::int64_t step = 1; step <= 8; ++step) {
      CHECK(learning_rate_factor(schedule, step, 100) == static_cast<double>(step) / 8);
    }
  }
}

TEST_CASE("schedules end at their floor, and are where they should be half way") {
  const auto at = [](ScheduleKind kind, std::int64_t step) {
    return learning_rate_factor({kind, 20, 10, 0.2}, step, 120);
  };
  CHECK(at(ScheduleKind::kConstant, 120) == 1);
  CHECK(at(ScheduleKind::kLinear, 70) == Approx(0.6));
  CHECK(at(ScheduleKind::kLinear, 120) == Approx(0.2));
  CHECK(at(ScheduleKind::kCosine, 70) == Approx(0.6));
  CHECK(at(ScheduleKind::kCosine, 45) == Approx(0.2 + 0.8 * (1 + std::cos(3.14159265358979 / 4)) / 2));
  CHECK(at(ScheduleKind::kCosine, 120) == Approx(0.2));
  CHECK(at(ScheduleKind::kWarmupStableDecay, 110) == 1);
  CHECK(at(ScheduleKind::kWarmupStableDecay, 115) == Approx(0.6));
  CHECK(at(ScheduleKind::kWarmupStableDecay, 120) == Approx(0.2));
  CHECK(at(ScheduleKind::kInverseSquareRoot, 80) == Approx(0.5));
  CHECK(learning_rate_factor({ScheduleKind::kInverseSquareRoot, 20, 0, 0.2}, 10000, 10000) == 0.2);
  // A tenth of all steps unless told otherwise.
  CHECK(learning_rate_factor({ScheduleKind::kWarmupStableDecay, 0, 0, 0}, 90, 100) == 1);
  CHECK(learning_rate_factor({ScheduleKind::kWarmupStableDecay, 0, 0, 0}, 95, 100) == Approx(0.5));
}

TEST_CASE("a training that is all warmup ends at its peak") {
  CHECK(learning_rate_factor({ScheduleKind::kCosine, 10, 0, 0}, 10, 10) == 1);
  CHECK(learning_rate_factor({ScheduleKind::kCosine, 0, 0, 0}, 1, 1) == Approx(0).margin(1e-12));
}

}  // namespace
}  // namespace braise::train
