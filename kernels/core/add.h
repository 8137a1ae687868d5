// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::core {

/// sum += x, element by element, in fp32 with one rounding, and one more where sum is bf16 or fp16. sum, x:
/// floating-point, of one shape; rows contiguous, otherwise any strides. The same bits on every tier and thread count.
/// Errors: core::Error for arguments that are not so.
void add(Stream& stream, const TensorView& sum, const ConstTensorView& x);

}  // namespace braise::core
