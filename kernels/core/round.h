// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::core {

/// Every element of x = the value nearest to it that a floating-point dtype has, as core::copy rounds. x: fp32; rows
/// contiguous, otherwise any strides. The same bits on every tier and thread count. Errors: core::Error for arguments
/// that are not so.
void round_to(Stream& stream, const TensorView& x, Dtype dtype);

}  // namespace braise::core
