// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/sampling/sampling.h"

namespace braise::sampling::cpu {

void sample(core::Stream& stream, const core::TensorView& ids, const core::ConstTensorView& logits,
            std::span<const Choice> rows);

}  // namespace braise::sampling::cpu
