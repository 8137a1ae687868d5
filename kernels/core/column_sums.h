// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::core {

/// sums[c] += sum over rows of x[r, c]: the gradient of a bias. x: [.., C], floating point, rows contiguous and evenly
/// spaced. sums: fp32 [C], contiguous. Summed in fp32 over blocks of 32 rows in order, then over blocks by a pairwise
/// tree, with a workspace of 4 C bytes for each block from the stream's arena. The same bits on every tier and thread
/// count. Errors: core::Error for arguments that are not so.
void add_column_sums(Stream& stream, const TensorView& sums, const ConstTensorView& x);

}  // namespace braise::core
