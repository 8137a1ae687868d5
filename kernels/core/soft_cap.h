// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::core {

/// x = cap tanh(x / cap), element by element: small values stay nearly as they are, and none is beyond the cap.
/// x: fp32, rows contiguous, otherwise any strides. cap > 0. The same bits on every tier and thread count. Errors:
/// core::Error for arguments that are not so. Source: Bello et al., "Neural combinatorial optimization with
/// reinforcement learning", arXiv 1611.09940, section 3; Gemma team, "Gemma 2", arXiv 2408.00118, section 2.
void soft_cap(Stream& stream, const TensorView& x, float cap);

}  // namespace braise::core
