// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/tensor.h"

namespace braise::core::cpu {

void round_to(const TensorView& x, Dtype dtype);

}  // namespace braise::core::cpu
