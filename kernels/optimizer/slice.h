// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/tensor.h"

namespace braise::optimizer {

/// What a step of an optimizer works on: any range of parameters with their gradients. All tensors of a step, the
/// optimizer's state too, are contiguous, of one shape, and do not overlap. Steps are element by element, so a whole
/// tensor and its parts give the same bits, wherever it is cut, on every device, tier and number of threads: each
/// header spells out its fp32 operations (IEEE 754, to nearest even; fma rounds once), and constants are computed in
/// fp64 on the host and rounded to fp32. An option that is 0 is left out of the arithmetic, not multiplied with.
struct Slice {
  core::TensorView master;         ///< fp32: the weights, updated
  core::TensorView copy;           ///< any floating-point dtype, may be default-made: the new weights, rounded
  core::ConstTensorView gradient;  ///< any floating-point dtype
  float gradient_scale = 1.0f;     ///< multiplied with the gradient first: clipping, loss scaling
};

}  // namespace braise::optimizer
