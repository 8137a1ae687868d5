// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/accumulate.h"
#include "kernels/core/device.h"
#include "kernels/core/random.h"
#include "kernels/core/tensor.h"

namespace braise::activation {

/// Sets elements to 0 at random and scales the others so that the mean stays; or adds that to what is there:
///   y_i = x_i / (1 - probability) if random.word(first_element + i) >= round(probability 2^32), otherwise 0,
/// i being the row-major index in the shape. No mask is kept, and the gradient is the same function: dx of dy.
/// `x`, `y`: floating-point, of one shape and dtype, rows contiguous, otherwise any strides. `probability` in [0, 1);
/// with 0 nothing is drawn, and y = x. 1 / (1 - probability) is rounded to fp32, the product once to the dtype. `y` may
/// be the very tensor `x`. The same bits on every device, tier, thread count, and however the elements are split.
/// Errors: core::Error for arguments that are not so.
/// Source: Srivastava et al., "Dropout", JMLR 15, 2014, section 4, with the scale moved to training.
void dropout(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x, double probability,
             const core::RandomStream& random, std::uint64_t first_element,
             core::Accumulate accumulate = core::Accumulate::kOverwrite);

}  // namespace braise::activation
