// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/tensor.h"

namespace braise::core::cpu {

void soft_cap(const TensorView& x, float cap);

/// x[i] = outer tanh(inner x[i]), on the calling thread.
void soft_cap_row(float* x, std::int64_t count, float inner, float outer);

}  // namespace braise::core::cpu
