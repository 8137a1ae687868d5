// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::core {

/// Elements in one block of a reduction. Blocks lie on the logical tensor in row-major order; the last may be short.
inline constexpr std::int64_t kReductionBlock = 4096;

/// Blocks of a tensor with that many elements.
constexpr std::int64_t reduction_blocks(std::int64_t elements) {
  return (elements + kReductionBlock - 1) / kReductionBlock;
}

/// sums[b] = sum of the squares of block b's elements, in fp64: eight partial sums (element i goes to sum i mod 8, in
/// order), added pairwise. `x`: floating-point, contiguous. `sums`: reduction_blocks(elements) values in host memory.
/// The same bits on every device, thread count and tier (a product of two fp32 is exact in fp64).
void block_sums_of_squares(Stream& stream, std::span<double> sums, const ConstTensorView& x);

/// The sum of `terms` by a fixed binary tree: terms 2 i and 2 i + 1 are added, and so on; a term without a partner goes
/// up as it is. So an aligned power-of-two part of the terms is one node, wherever it is computed. 0 for no terms.
double tree_sum(std::span<const double> terms);

}  // namespace braise::core
