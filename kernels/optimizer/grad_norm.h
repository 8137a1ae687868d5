// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::optimizer {

/// The 2-norm of all elements of all gradients, as if they were one vector.
///     sqrt(tree_sum(the block sums of squares of gradients[0], then those of gradients[1], ...))
/// in fp64, with core::block_sums_of_squares and core::tree_sum: each tensor starts a block of its own, so the result
/// is a function of the list, its order included, and of nothing else. Ranks that hold parts of it, cut on the edges of
/// blocks, gather their block sums in that order and finish with norm_of_blocks: the same bits.
/// gradients: contiguous, any floating-point dtype. Not finite where an element is not: NaN for a NaN, else infinity
/// (finite fp32 elements cannot overflow it). 0 for an empty list.
double gradient_norm(core::Stream& stream, std::span<const core::ConstTensorView> gradients);

/// sqrt(tree_sum(sums)): the norm from all block sums of squares, in the order of gradient_norm.
double norm_of_blocks(std::span<const double> sums);

/// What gradients are multiplied with so that their norm is at most about max_norm.
///     min(1, max_norm / (norm + 1e-6)), in fp64, rounded to fp32
/// as torch.nn.utils.clip_grad_norm_ has it. NaN for a norm that is not finite, NaN or infinite: a caller that does not
/// look at the norm, and skip the step or end the run, finds NaN in every weight rather than a silent 0.
/// Errors: core::Error unless max_norm is positive.
/// Source: Pascanu, Mikolov and Bengio, arXiv 1211.5063, algorithm 1.
float clip_factor(double norm, double max_norm);

}  // namespace braise::optimizer
