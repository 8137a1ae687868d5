// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/loss/cross_entropy.h"

namespace braise::loss::cpu {

void forward(core::Stream& stream, const core::TensorView& losses, const core::TensorView& log_sums,
             const core::ConstTensorView& x, const linear::PackedMatrix& w, const core::ConstTensorView& targets,
             const CrossEntropy& settings);

/// dz of tokens [begin, end), `begin` a multiple of 256: [M, end - begin], rows contiguous.
void logit_gradients(core::Stream& stream, const core::TensorView& dz, const core::ConstTensorView& gradients,
                     const core::ConstTensorView& log_sums, const core::ConstTensorView& x,
                     const linear::PackedMatrix& w, const core::ConstTensorView& targets, const CrossEntropy& settings,
                     std::int64_t begin, std::int64_t end);

}  // namespace braise::loss::cpu
