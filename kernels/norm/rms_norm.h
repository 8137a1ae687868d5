// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/accumulate.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::norm {

/// Root-mean-square normalisation of each row, then a scale for each channel:
///   r = 1 / sqrt(mean(x^2) + epsilon),  y_c = x_c r (weight_offset + weight_c).
/// `x`, `y`: floating-point [.., C], of one shape, each of any storage dtype; rows contiguous, otherwise any strides
/// (so the heads of queries and keys may be normalised in place inside a larger tensor). `weight`: floating-point [C],
/// contiguous; `weight_offset` is 1 for models that store the scale less 1. `inverse_std`: r, fp32 [..] (the shape
/// without C), contiguous; optional. `epsilon` > 0.
/// The sum of squares is fp64: 16 partial sums (element i goes to sum i mod 16, in order), added by halves; r is
/// rounded to fp32, and the rest is fp32 with one rounding to the dtype of y. `y` may be the very tensor `x`. The same
/// bits on every tier and thread count; a row does not depend on the others. Errors: core::Error for arguments that are
/// not so. Source: Zhang and Sennrich, "Root mean square layer normalization", arXiv 1910.07467, section 4.
void rms_norm_forward(core::Stream& stream, const core::TensorView& y, const core::TensorView& inverse_std,
                      const core::ConstTensorView& x, const core::ConstTensorView& weight, float epsilon,
                      float weight_offset = 0.0f);

/// The gradients of rms_norm_forward. With n_c = x_c r and g_c = dy_c (weight_offset + weight_c):
///   dx_c = r (g_c - n_c mean(g n)), added to what is there or not;  dweight_c += sum over rows of dy_c n_c.
/// `dx`, `x`: one dtype; `dy`: any. `dweight`: fp32 [C], contiguous; without it none is computed. `inverse_std`: as
/// rms_norm_forward gave it. The mean is fp64 as above; dweight is summed over blocks of 32 rows in order and then over
/// blocks by a pairwise tree, in fp32, with a workspace of 4 C bytes for each block from the stream's arena. `dx` may
/// be the very tensor `dy` or `x`. All else as rms_norm_forward.
void rms_norm_backward(core::Stream& stream, const core::TensorView& dx, const core::TensorView& dweight,
                       const core::ConstTensorView& dy, const core::ConstTensorView& x,
                       const core::ConstTensorView& inverse_std, const core::ConstTensorView& weight,
                       core::Accumulate accumulate, float weight_offset = 0.0f);

}  // namespace braise::norm
