// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/tensor.h"

namespace braise::core::cpu {

void add(const TensorView& sum, const ConstTensorView& x);

/// sums[i] += terms[i], on the calling thread.
void add_terms(float* sums, const float* terms, std::int64_t count);

}  // namespace braise::core::cpu
