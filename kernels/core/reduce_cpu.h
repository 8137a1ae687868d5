// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "kernels/core/tensor.h"

namespace braise::core::cpu {

/// Blocks summed at once: the additions of one block wait for each other, those of several do not.
inline constexpr std::int64_t kBlocksTogether = 4;

void block_sums_of_squares(std::span<double> sums, const ConstTensorView& x);

}  // namespace braise::core::cpu
