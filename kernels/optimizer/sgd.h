// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "kernels/optimizer/slice.h"

namespace braise::optimizer {

struct Sgd {
  double learning_rate = 0;
  double weight_decay = 0;  ///< of L2 regularisation: joins the gradient
  double momentum = 0;
  double dampening = 0;
  bool nesterov = false;  ///< asks for momentum without dampening
};

/// One step of stochastic gradient descent, with momentum where it is not 0. `step` counts from 1; the first sets the
/// momentum to the gradient, undamped, whatever it held.
///     g = gradient_scale * gradient
///     g = fma(weight_decay, w, g)
///     m = g                                            (step 1)
///     m = fma(momentum, m, (1 - dampening) * g)        (later)
///     d = m, or fma(momentum, m, g) for Nesterov's form, or g without momentum
///     w = fma(-learning_rate, d, w)
/// m: fp32, default-made where momentum is 0.
/// Errors: core::Error for tensors that do not go together, a step below 1, or nesterov as above.
/// Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013, section 2,
/// in the form of torch.optim.SGD, which applies the learning rate to the momentum, not to the gradient in it.
void sgd_step(core::Stream& stream, const Slice& slice, const core::TensorView& m, const Sgd& options,
              std::int64_t step);

}  // namespace braise::optimizer
