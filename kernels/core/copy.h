// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::core {

/// destination = source, element for element: copies, gathers strided views, transposes, and casts among fp32, bf16 and
/// fp16 (to nearest, ties to even; NaN stays NaN, too large becomes infinity). Integers are copied between equal
/// dtypes. Shapes must be equal; strides are free, int4 is contiguous. The two must not overlap. Host and device in any
/// combination the build has. Deterministic. Errors: core::Error for shapes or dtypes that do not go together.
void copy(Stream& stream, const TensorView& destination, const ConstTensorView& source);

/// Every element = value, in the tensor's floating-point dtype (or rounded toward zero for int8 and int32).
/// Strides are free. Errors: core::Error for int4, and for a value that int8 or int32 does not have.
void fill(Stream& stream, const TensorView& tensor, float value);

}  // namespace braise::core
