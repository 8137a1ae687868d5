// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/column_sums.h"

namespace braise::core::cpu {

/// Rows of a block, which are added in order.
inline constexpr std::int64_t kColumnSumBlock = 32;

void add_column_sums(Stream& stream, const TensorView& sums, const ConstTensorView& x);

/// sums[c] += the sum over blocks of parts[block, c], by a pairwise tree which is left in `parts` (fp32 [blocks, C],
/// contiguous): blocks 2 i and 2 i + 1 are added, and so on.
void add_tree_of_rows(const TensorView& sums, const TensorView& parts);

}  // namespace braise::core::cpu
