// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/accumulate.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::linear::cpu {

/// Whether product_in_place is there for operands of this dtype: with AMX.
bool has_product_in_place(core::Dtype dtype);

/// y (=|+=) x b for operands that are used once, as weights' gradients are made of: each is packed piece by piece just
/// before it is multiplied, and y takes the sums of one part of the depth after the other, so nothing of their size is
/// written but y. x: [M, K], b: [K, N], any strides. y: [M, N] fp32, rows contiguous.
void product_in_place(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x,
                      const core::ConstTensorView& b, core::Accumulate accumulate);

}  // namespace braise::linear::cpu
