// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/accumulate.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::norm {

/// Normalisation of each row to mean 0 and variance 1, then a scale and a shift for each channel:
///   m = mean(x),  r = 1 / sqrt(mean((x - m)^2) + epsilon),  y_c = (x_c - m) r weight_c + bias_c.
/// `x`, `y`: floating-point [.., C], of one shape, each of any storage dtype; rows contiguous, otherwise any strides.
/// `weight`, `bias`: floating-point [C], contiguous; without `bias` none is added. `mean`, `inverse_std`: m and r, fp32
/// [..] (the shape without C), contiguous; each optional. `epsilon` > 0.
/// The sums are fp64, in two passes: 16 partial sums (element i goes to sum i mod 16, in order), added by halves; m and
/// r are rounded to fp32, and the rest is fp32 with one rounding to the dtype of y. `y` may be the very tensor `x`. The
/// same bits on every tier and thread count; a row does not depend on the others.
/// Errors: core::Error for arguments that are not so.
/// Source: Ba, Kiros and Hinton, "Layer normalization", arXiv 1607.06450, section 3.
void layer_norm_forward(core::Stream& stream, const core::TensorView& y, const core::TensorView& mean,
                        const core::TensorView& inverse_std, const core::ConstTensorView& x,
                        const core::ConstTensorView& weight, const core::ConstTensorView& bias, float epsilon);

/// The gradients of layer_norm_forward. With n_c = (x_c - m) r and g_c = dy_c weight_c:
///   dx_c = r (g_c - mean(g) - n_c mean(g n)), added to what is there or not;
///   dweight_c += sum over rows of dy_c n_c;  dbias_c += sum over rows of dy_c.
/// `dx`, `x`: one dtype; `dy`: any. `dweight`, `dbias`: fp32 [C], contiguous; one that is missing is not computed.
/// `mean`, `inverse_std`: as layer_norm_forward gave them. The means are fp64 as above; dweight and dbias are summed
/// over blocks of 32 rows in order and then over blocks by a pairwise tree, in fp32, with a workspace of 8 C bytes for
/// each block from the stream's arena. `dx` may be the very tensor `dy` or `x`. All else as layer_norm_forward.
void layer_norm_backward(core::Stream& stream, const core::TensorView& dx, const core::TensorView& dweight,
                         const core::TensorView& dbias, const core::ConstTensorView& dy, const core::ConstTensorView& x,
                         const core::ConstTensorView& mean, const core::ConstTensorView& inverse_std,
                         const core::ConstTensorView& weight, core::Accumulate accumulate);

}  // namespace braise::norm
