// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace braise::train {

enum class ScheduleKind : std::uint8_t { kConstant, kLinear, kCosine, kWarmupStableDecay, kInverseSquareRoot };

struct ScheduleSettings {
  ScheduleKind kind = ScheduleKind::kCosine;
  std::int64_t warmup = 0;  ///< steps
  std::int64_t decay = 0;   ///< steps, of kWarmupStableDecay; 0: a tenth of all, at least one
  double floor = 0;         ///< what is left after the last step
};

/// The learning rate of step `step` (1 to `steps`) as a multiple of its peak. With w the warmup and p = (step - w) /
/// (steps - w):
///
///     step / w                                    up to the warmup's end
///     1                                           constant
///     1 - (1 - floor) p                           linear
///     floor + (1 - floor) (1 + cos(pi p)) / 2     cosine
///     1, then 1 - (1 - floor) q                   warmup-stable-decay, q running from 0 to 1 over the last steps
///     max(floor, sqrt(max(w, 1) / step))          inverse square root
///
/// A pure function of its arguments, with the same bits on every machine. Source: cosine: Loshchilov and Hutter, arXiv
/// 1608.03983, equation 5; warmup-stable-decay: Hu et al., arXiv 2404.06395, section 4; inverse square root: Vaswani et
/// al., arXiv 1706.03762, equation 3.
double learning_rate_factor(const ScheduleSettings& schedule, std::int64_t step, std::int64_t steps);

}  // namespace braise::train
