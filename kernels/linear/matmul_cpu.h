// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/linear/matmul.h"

namespace braise::linear::cpu {

/// Bytes of a packed K x N matrix.
std::int64_t packed_bytes(core::Dtype dtype, std::int64_t depth, std::int64_t columns);

void pack(void* packed, const core::ConstTensorView& b);

/// x: [M, K], y: [M, N].
void matmul(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x, const void* packed,
            const Epilogue& epilogue);

}  // namespace braise::linear::cpu
