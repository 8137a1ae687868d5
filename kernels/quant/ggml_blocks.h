// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::quant {

/// Weights in the block formats of ggml: a row is a sequence of blocks of 32 elements, each with a scale d (and for
/// Q4_1 a minimum m) in fp16, little-endian, before the elements:
///
///     Q8_0: d, 32 x int8             x[i] = d * q[i]
///     Q4_0: d, 16 bytes of nibbles   x[i] = d * (q[i] - 8)
///     Q4_1: d, m, 16 bytes           x[i] = d * q[i] + m
///
/// where the low nibble of byte i is element i of the block, the high one element i + 16.
inline constexpr std::int64_t kGgmlBlock = 32;
inline constexpr std::int64_t kQ8_0Bytes = 34;
inline constexpr std::int64_t kQ4_0Bytes = 18;
inline constexpr std::int64_t kQ4_1Bytes = 20;

/// out = the elements of whole rows of blocks, in fp32 (the bits ggml gives), rounded once more where out is bf16 or
/// fp16.
///
/// out: fp32, bf16 or fp16, ... x C, C a multiple of kGgmlBlock; blocks: the bytes, as int8, ... x C / kGgmlBlock *
/// bytes of a block, at any address. Rows may be padded. The two must not overlap. The same bits for every thread count
/// and tier: each product is exact, so the only rounding is that of + m. Errors: core::Error for other shapes or
/// dtypes. Source: ggml, dequantize_row_q8_0, dequantize_row_q4_0, dequantize_row_q4_1.
void dequantize_q8_0(core::Stream& stream, const core::TensorView& out, const core::ConstTensorView& blocks);
void dequantize_q4_0(core::Stream& stream, const core::TensorView& out, const core::ConstTensorView& blocks);
void dequantize_q4_1(core::Stream& stream, const core::TensorView& out, const core::ConstTensorView& blocks);

}  // namespace braise::quant
