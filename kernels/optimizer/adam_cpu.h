// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/optimizer/slice.h"

namespace braise::optimizer::cpu {

struct AdamConstants {
  float negative_rate;  ///< -(learning_rate / (1 - beta1^step))
  float taken1;         ///< 1 - beta1
  float kept2;          ///< beta2
  float taken2;         ///< 1 - beta2
  float correction2;    ///< 1 / sqrt(1 - beta2^step)
  float epsilon;
  float weight_decay;  ///< 0 if decoupled
  float shrinkage;     ///< 1 unless decoupled
};

void adam_step(const Slice& slice, const core::TensorView& m, const core::TensorView& v,
               const AdamConstants& constants);

}  // namespace braise::optimizer::cpu
