// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "stages/train/settings.h"

namespace braise::train {

/// The factor that keeps fp16 gradients from vanishing: it grows after many good steps and shrinks after overflows.
/// Source: Micikevicius et al., "Mixed precision training", arXiv 1710.03740, section 3.2.
class LossScale {
 public:
  explicit LossScale(const LossScaleSettings& settings) : settings_(settings), scale_(settings.initial) {}

  double scale() const { return scale_; }

  /// A step whose gradients were finite.
  void good_step();

  /// A step that overflowed and is left out. False where the scale was at its minimum already: scaling cannot help.
  bool overflow();

  /// What a checkpoint holds.
  struct State {
    double scale = 1;
    std::int64_t good_steps = 0;
    std::int64_t overflows = 0;
  };
  State state() const { return {scale_, good_steps_, overflows_}; }
  void restore(const State& state);

 private:
  LossScaleSettings settings_;
  double scale_;
  std::int64_t good_steps_ = 0;  ///< since the scale last changed or a step overflowed
  std::int64_t overflows_ = 0;   ///< let pass since the scale last changed
};

}  // namespace braise::train
