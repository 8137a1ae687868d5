// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/activation/activation.h"

namespace braise::activation {

/// A gated linear unit's element-wise part: y = f(gate) up. With kSilu it is SwiGLU, with a Gelu GEGLU.
/// `y`, `gate`, `up`: floating-point, of one shape and dtype, rows contiguous, otherwise any strides (gate and up may
/// be the halves of one tensor's rows). The arithmetic is fp32 with one rounding on store. `y` may be the very tensor
/// `gate` or `up`. The same bits on every tier and thread count. Errors: core::Error for arguments that are not so.
/// Source: Shazeer, "GLU variants improve transformer", arXiv 2002.05202, section 2.
void gated_forward(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& gate,
                   const core::ConstTensorView& up, Activation activation);

/// dgate = dy up f'(gate) and dup = dy f(gate), or both added to what is there; it needs the inputs, not the output.
/// `dgate`, `dup`, `dy`, `gate`, `up`: one shape and dtype. `dgate` and `dup` may each be the very tensor `dy`, `gate`
/// or `up`. All else as gated_forward.
void gated_backward(core::Stream& stream, const core::TensorView& dgate, const core::TensorView& dup,
                    const core::ConstTensorView& dy, const core::ConstTensorView& gate, const core::ConstTensorView& up,
                    Activation activation, core::Accumulate accumulate);

}  // namespace braise::activation
