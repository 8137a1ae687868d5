// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "kernels/core/vocabulary_part.h"
#include "kernels/linear/matmul.h"

namespace braise::loss {

struct CrossEntropy {
  std::int32_t ignore = -100;  ///< rows with this target count for nothing
  float label_smoothing = 0;   ///< in [0, 1]: this part of the target is spread over all V tokens
  float z_loss = 0;            ///< coefficient of the square of the log-sum; >= 0
  float logit_cap = 0;         ///< logits are bent as core::soft_cap does it; 0: they are not
};

/// The cross-entropy of logits z = x w', or z = cap tanh(x w' / cap), row by row, without the logits ever being in
/// memory:
///
///     loss[m] = L - (1 - a) z[m, target] - a mean over v of z[m, v] + c L^2,   L = log sum over v of exp z[m, v]
///
/// with a the label smoothing and c the z-loss; 0 for rows that are ignored. x: [M, C], floating point, any strides.
/// w: C x V (the head's weight, transposed), of x's dtype. targets: int32 [M], contiguous: ignore, or 0 to V - 1.
/// losses, log_sums (for the backward pass): fp32 [M], contiguous. Logits are fp32; sums over V go by tiles of 256 in
/// order. Deterministic; a row's bits do not depend on the other rows, nor on the threads.
/// Errors: core::Error for shapes, dtypes or settings that do not go together, and for a target that is out of range,
/// with its row; nothing was written then.
/// Source: label smoothing: Szegedy et al. 2016, section 7; z-loss: PaLM (Chowdhery et al. 2022), section 5.
void linear_cross_entropy_forward(core::Stream& stream, const core::TensorView& losses,
                                  const core::TensorView& log_sums, const core::ConstTensorView& x,
                                  const linear::PackedMatrix& w, const core::ConstTensorView& targets,
                                  const CrossEntropy& settings = {});

/// Numbers that a part of the vocabulary gives for each row.
inline constexpr std::int64_t kPartials = 4;

/// What a part of the vocabulary gives to the losses of rows: partials, fp32 [M, 4], contiguous, are the greatest of a
/// row's logits there, the sum of their exponentials less it, their sum, and the target's (0 where it lies elsewhere).
/// Targets: of the whole vocabulary. All else, and the errors, as linear_cross_entropy_forward, which is this over the
/// whole vocabulary and combine_cross_entropy of that one part.
void partial_cross_entropy(core::Stream& stream, const core::TensorView& partials, const core::ConstTensorView& x,
                           const linear::PackedMatrix& w, const core::ConstTensorView& targets,
                           const CrossEntropy& settings, const core::VocabularyPart& part);

/// The losses and log-sums of all parts together: partials fp32 [parts, M, 4], contiguous, taken in order.
/// `vocabulary`: V. Deterministic, a row depends on its partials alone. Errors: core::Error for shapes that do not go
/// together.
void combine_cross_entropy(core::Stream& stream, const core::TensorView& losses, const core::TensorView& log_sums,
                           const core::ConstTensorView& partials, const core::ConstTensorView& targets,
                           const CrossEntropy& settings, std::int64_t vocabulary);

/// The gradients of sum over m of gradients[m] loss[m]; logits are computed again, in chunks of the vocabulary:
///
///     dz[m, v] = gradients[m] (exp(z[m, v] - L) (1 + 2 c L) - (1 - a) [v = target] - a / V)
///     dx = dz w';   dw += dz' x
///
/// With a cap, dz is further times 1 - (z / cap)^2. With a part of the vocabulary: dx is what that part adds to it, dw
/// and `weight` are its rows, log_sums those of all.
///
/// dx: [M, C], fp32 or of x's dtype, rows contiguous, overwritten (sums over V in fp32). dw: fp32 [V, C], rows
/// contiguous, added to. `weight`: the head's weight as it is, [V, C] of x's dtype; w: the same, packed transposed.
/// gradients: fp32 [M], contiguous. dz is rounded to x's dtype. Workspace: M times 8192 elements of x's dtype, and M
/// times C of fp32 where dx is not. Deterministic: equal bits for any number of threads. Errors: as the forward pass.
void linear_cross_entropy_backward(core::Stream& stream, const core::TensorView& dx, const core::TensorView& dw,
                                   const core::ConstTensorView& gradients, const core::ConstTensorView& log_sums,
                                   const core::ConstTensorView& x, const linear::PackedMatrix& w,
                                   const core::ConstTensorView& weight, const core::ConstTensorView& targets,
                                   const CrossEntropy& settings = {}, const core::VocabularyPart& part = {});

}  // namespace braise::loss
