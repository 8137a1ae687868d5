// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/dtype.h"

/// What estimates of memory know of matrix products: the sizes of kernels/linear/tile_product.h.
namespace braise::model {

inline constexpr std::int64_t kFloatBytes = 4;
inline constexpr std::int64_t kTileRows = 128;
inline constexpr std::int64_t kTileColumns = 256;
inline constexpr std::int64_t kColumnBlock = 64;
inline constexpr std::int64_t kDepthBlock = 32;

inline std::int64_t rounded_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Of an operand's element as it is multiplied, on a processor that multiplies bf16.
inline std::int64_t operand_bytes(core::Dtype compute) {
  return compute == core::Dtype::kBfloat16 ? 2 : kFloatBytes;
}

/// Of a packed right operand.
inline std::int64_t packed_bytes(core::Dtype compute, std::int64_t depth, std::int64_t columns) {
  return operand_bytes(compute) * rounded_up(depth, kDepthBlock) * rounded_up(columns, kColumnBlock);
}

/// Columns that a packed operand of so many gated ones takes: the gates of a tile's half stand before what they gate.
inline std::int64_t gated_columns(std::int64_t columns) {
  const std::int64_t last = columns / 2 % (kTileColumns / 2);
  return columns - 2 * last + (last > 0 ? rounded_up(last, kColumnBlock) + last : 0);
}

}  // namespace braise::model
