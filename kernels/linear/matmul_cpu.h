// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/linear/matmul.h"

namespace braise::linear::cpu {

/// Bytes of a packed K x N matrix.
std::int64_t packed_bytes(core::Dtype dtype, std::int64_t depth, std::int64_t columns);

void pack(void* packed, const core::ConstTensorView& b);

/// Gated columns, 2 F of them: a tile holds kGatedColumns gates, then as many of the columns that they are for. In the
/// last, which may hold fewer, those begin at a whole block.
inline constexpr std::int64_t kGatedColumns = 128;

/// Columns of the packed matrix.
std::int64_t gated_width(std::int64_t columns);

/// Where a tile's second half begins that holds so many of each.
std::int64_t gated_offset(std::int64_t each);

void pack_gated(void* packed, const core::ConstTensorView& b);

/// x: [M, K], y: [M, N], or [M, F].
void matmul(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x, const void* packed,
            Columns kind, const Epilogue& epilogue);

}  // namespace braise::linear::cpu
