// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/optimizer/slice.h"

namespace braise::optimizer::cpu {

struct RmsPropConstants {
  float negative_rate;
  float kept;   ///< alpha
  float taken;  ///< 1 - alpha
  float epsilon;
  float weight_decay;
  float momentum;
};

/// a is default-made unless centered, m where momentum is 0.
void rms_prop_step(const Slice& slice, const core::TensorView& v, const core::TensorView& a, const core::TensorView& m,
                   const RmsPropConstants& constants);

}  // namespace braise::optimizer::cpu
