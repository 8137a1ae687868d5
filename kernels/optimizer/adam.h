// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "kernels/optimizer/slice.h"

namespace braise::optimizer {

enum class WeightDecay : std::uint8_t {
  kGradient,   ///< L2 regularisation: joins the gradient (Adam)
  kDecoupled,  ///< shrinks the weights, apart from the gradient (AdamW)
};

struct Adam {
  double learning_rate = 0;
  double beta1 = 0;
  double beta2 = 0;
  double epsilon = 0;
  double weight_decay = 0;
  WeightDecay decay = WeightDecay::kDecoupled;
};

/// One step of Adam or AdamW. `step` counts from 1; the state is zero before the first.
///     g = gradient_scale * gradient
///     g = fma(weight_decay, w, g)                      (kGradient)
///     w = (1 - learning_rate weight_decay) * w         (kDecoupled)
///     m = fma(1 - beta1, g - m, m)
///     v = fma((1 - beta2) * g, g, beta2 * v)
///     d = fma(sqrt(v), 1 / sqrt(1 - beta2^step), epsilon)
///     w = fma(-(learning_rate / (1 - beta1^step)), m / d, w)
/// 1 - beta1, beta2, 1 - beta2, epsilon, weight_decay, 1 - learning_rate weight_decay, 1 / sqrt(1 - beta2^step) and
/// -(learning_rate / (1 - beta1^step)) are one fp32 constant each. Powers are taken in fp64 by repeated squaring: the
/// square of beta goes up with each bit of step from the lowest, and is multiplied in where the bit is set.
/// m, v: fp32.
/// Errors: core::Error for tensors that do not go together, or a step below 1.
/// Source: Kingma and Ba, arXiv 1412.6980, algorithm 1; Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, with the
/// decay multiplied by the learning rate and epsilon added after the correction of v, as in torch.optim.AdamW.
void adam_step(core::Stream& stream, const Slice& slice, const core::TensorView& m, const core::TensorView& v,
               const Adam& options, std::int64_t step);

}  // namespace braise::optimizer
