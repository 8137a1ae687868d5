// SPDX-License-Identifier: Apache-2.0
#include "stages/train/pace.h"

#include <algorithm>

namespace braise::train {
namespace {

/// Disks and networks are shared: the next one may take longer than any of the latest.
constexpr double kReserve = 1.25;

}  // namespace

double Pace::Latest::longest() const {
  return *std::max_element(seconds_.begin(), seconds_.end());
}

void Pace::note_step(double seconds) {
  step_.note(seconds);
}

void Pace::note_validation(double seconds) {
  validation_.note(seconds);
}

void Pace::note_save(double seconds) {
  save_.note(seconds);
}

std::optional<double> Pace::next_s(bool validates) const {
  if (!step_.is_known() || !save_.is_known()) return std::nullopt;
  return kReserve * (step_.longest() + (validates ? validation_.longest() : 0) + save_.longest());
}

}  // namespace braise::train
