// SPDX-License-Identifier: Apache-2.0
#include "stages/train/loss_scale.h"

#include <algorithm>

namespace braise::train {
namespace {

// Larger scales overflow fp32 losses themselves.
constexpr double kLargest = 0x1p60;

}  // namespace

void LossScale::good_step() {
  if (++good_steps_ < settings_.interval) return;
  scale_ = std::min(kLargest, scale_ * settings_.growth);
  good_steps_ = 0;
  overflows_ = 0;
}

bool LossScale::overflow() {
  good_steps_ = 0;
  if (++overflows_ < settings_.hysteresis) return true;
  overflows_ = 0;
  if (scale_ <= settings_.minimum) return false;
  scale_ = std::max(settings_.minimum, scale_ * settings_.backoff);
  return true;
}

void LossScale::restore(const State& state) {
  scale_ = state.scale;
  good_steps_ = state.good_steps;
  overflows_ = state.overflows;
}

}  // namespace braise::train
