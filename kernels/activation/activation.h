// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/accumulate.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::activation {

/// A function f of one number.
enum class Activation : std::uint8_t {
  /// x Phi(x), Phi the distribution function of the normal distribution: x (1 + erf(x / sqrt 2)) / 2.
  /// Source: Hendrycks and Gimpel, "Gaussian error linear units", arXiv 1606.08415, section 2.
  kGelu,
  /// Its approximation x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2. Source: the same.
  kGeluTanh,
  /// x / (1 + e^-x), also called swish. Source: the same, section 4.
  kSilu,
};

/// y = f(x), element by element.
/// `x`, `y`: floating-point, of one shape and dtype, rows contiguous, otherwise any strides. The arithmetic is fp32, by
/// formulas that keep their digits where f is near 0, with one rounding on store. `y` may be the very tensor `x`. The
/// same bits on every tier and thread count. Errors: core::Error for arguments that are not so.
void activation_forward(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x,
                        Activation activation);

/// dx = dy f'(x), or added to what is there; it needs the input x, not the output.
/// `dx`, `dy`, `x`: one shape and dtype. `dx` may be the very tensor `dy` or `x`. All else as activation_forward.
void activation_backward(core::Stream& stream, const core::TensorView& dx, const core::ConstTensorView& dy,
                         const core::ConstTensorView& x, Activation activation, core::Accumulate accumulate);

}  // namespace braise::activation
