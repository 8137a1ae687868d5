// SPDX-License-Identifier: Apache-2.0
#include "stages/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/core/portable_math.h"

namespace braise::train {

double learning_rate_factor(const ScheduleSettings& schedule, std::int64_t step, std::int64_t steps) {
  const auto warmup = static_cast<double>(schedule.warmup);
  const auto at = static_cast<double>(step);
  const auto last = static_cast<double>(steps);
  if (step <= schedule.warmup) return at / warmup;
  const double floor = schedule.floor;
  const double progress = std::min(1.0, (at - warmup) / (last - warmup));
  switch (schedule.kind) {
    case ScheduleKind::kConstant:
      return 1;
    case ScheduleKind::kLinear:
      return 1 - (1 - floor) * progress;
    case ScheduleKind::kCosine:
      return floor + (1 - floor) * (1 + core::portable::sin_cos(std::numbers::pi * progress).cos) / 2;
    case ScheduleKind::kWarmupStableDecay: {
      const std::int64_t decay = schedule.decay > 0 ? schedule.decay : std::max<std::int64_t>(1, steps / 10);
      const double into = std::clamp((at - static_cast<double>(steps - decay)) / static_cast<double>(decay), 0.0, 1.0);
      return 1 - (1 - floor) * into;
    }
    case ScheduleKind::kInverseSquareRoot:
      return std::max(floor, std::sqrt(std::max(warmup, 1.0) / at));
  }
  return 1;
}

}  // namespace braise::train
