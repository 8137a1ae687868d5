// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/loss/cross_entropy.h"

namespace braise::loss::cpu {

void partial(core::Stream& stream, const core::TensorView& partials, const core::ConstTensorView& x,
             const linear::PackedMatrix& w, const core::ConstTensorView& targets, const CrossEntropy& settings,
             const core::VocabularyPart& part);

void combine(const core::TensorView& losses, const core::TensorView& log_sums, const core::ConstTensorView& partials,
             const core::ConstTensorView& targets, const CrossEntropy& settings, std::int64_t vocabulary);

/// dz of logits [begin, end), `begin` a multiple of 256: [M, end - begin], rows contiguous. `part` has its vocabulary.
void logit_gradients(core::Stream& stream, const core::TensorView& dz, const core::ConstTensorView& gradients,
                     const core::ConstTensorView& log_sums, const core::ConstTensorView& x,
                     const linear::PackedMatrix& w, const core::ConstTensorView& targets, const CrossEntropy& settings,
                     const core::VocabularyPart& part, std::int64_t begin, std::int64_t end);

}  // namespace braise::loss::cpu
