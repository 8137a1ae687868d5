// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/optimizer/slice.h"

namespace braise::optimizer::cpu {

struct SgdConstants {
  float negative_rate;
  float weight_decay;
  float momentum;
  float undamped;  ///< 1 - dampening
  bool nesterov;
  bool first;
};

/// m is default-made where momentum is 0.
void sgd_step(const Slice& slice, const core::TensorView& m, const SgdConstants& constants);

}  // namespace braise::optimizer::cpu
