// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::core {

/// sum += x, element by element, in fp32 with one rounding. sum: fp32; x: floating-point, of its shape; rows
/// contiguous, otherwise any strides. The same bits on every tier and thread count. Errors: core::Error for arguments
/// that are not so.
void add(Stream& stream, const TensorView& sum, const ConstTensorView& x);

}  // namespace braise::core
