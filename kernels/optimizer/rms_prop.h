// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "kernels/optimizer/slice.h"

namespace braise::optimizer {

struct RmsProp {
  double learning_rate = 0;
  double alpha = 0;  ///< what the averages keep
  double epsilon = 0;
  double weight_decay = 0;  ///< of L2 regularisation: joins the gradient
  double momentum = 0;
  bool centered = false;  ///< divides by the standard deviation of the gradient
};

/// One step of RMSProp. The state is zero before the first.
///     g = gradient_scale * gradient
///     g = fma(weight_decay, w, g)
///     v = fma((1 - alpha) * g, g, alpha * v)
///     a = fma(1 - alpha, g - a, a)                     (centered)
///     s = v, or fma(-a, a, v) if centered; 0 where that is negative (by rounding only)
///     d = g / (sqrt(s) + epsilon)
///     m = fma(momentum, m, d); d = m                   (momentum not 0)
///     w = fma(-learning_rate, d, w)
/// v, a, m: fp32; a is default-made unless centered, m where momentum is 0.
/// Errors: core::Error for tensors that do not go together.
/// Source: Tieleman and Hinton, lecture 6.5 of "Neural networks for machine learning", 2012; Graves, arXiv 1308.0850,
/// equations 38 to 45, for the centered form; where epsilon stands, and momentum, as in torch.optim.RMSprop.
void rms_prop_step(core::Stream& stream, const Slice& slice, const core::TensorView& v, const core::TensorView& a,
                   const core::TensorView& m, const RmsProp& options);

}  // namespace braise::optimizer
