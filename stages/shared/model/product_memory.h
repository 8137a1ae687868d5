// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/core/dtype.h"
#include "kernels/core/tier.h"

/// What estimates of memory know of matrix products: the sizes of kernels/linear/tile_product.h.
namespace braise::model {

inline constexpr std::int64_t kFloatBytes = 4;
inline constexpr std::int64_t kTileRows = 128;
inline constexpr std::int64_t kTileColumns = 256;
inline constexpr std::int64_t kColumnBlock = 64;

inline std::int64_t rounded_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Columns that a packed operand of so many gated ones takes: the gates of a tile's half stand before what they gate.
inline std::int64_t gated_columns(std::int64_t columns) {
  const std::int64_t last = columns / 2 % (kTileColumns / 2);
  return columns - 2 * last + (last > 0 ? rounded_up(last, kColumnBlock) + last : 0);
}

/// How tensors of a dtype are multiplied on an instruction-set tier, and what that takes.
class Products {
 public:
  Products(core::Dtype compute, core::Tier tier)
      : bf16_(compute == core::Dtype::kBfloat16 && tier >= core::Tier::kAvx512Bf16),
        amx_(bf16_ && tier >= core::Tier::kAmx),
        blocked_(tier >= core::Tier::kAvx512) {}

  std::int64_t operand_bytes() const { return bf16_ ? 2 : kFloatBytes; }

  /// Of a packed right operand.
  std::int64_t packed_bytes(std::int64_t depth, std::int64_t columns) const {
    return operand_bytes() * padded_depth(depth) * rounded_up(columns, kColumnBlock);
  }
  /// Of a packed left operand.
  std::int64_t left_bytes(std::int64_t rows, std::int64_t depth) const {
    return operand_bytes() * (amx_ ? rounded_up(rows, 16) * padded_depth(depth) : rows * depth);
  }
  /// Of rows of sums, and of such that are a left operand.
  std::int64_t sums_bytes(std::int64_t rows, std::int64_t columns) const {
    return rows * (columns + (amx_ ? 16 : 0)) * kFloatBytes;
  }
  std::int64_t operand_rows_bytes(std::int64_t rows, std::int64_t columns) const {
    return rows * (columns + (amx_ ? 32 : 0)) * operand_bytes();
  }
  /// Rows that a tile of so many is padded to.
  std::int64_t row_count(std::int64_t rows) const {
    if (amx_) return rows;
    for (const std::int64_t count : {blocked_ ? 8 : 4, 16, 64}) {
      if (rows <= count) return count;
    }
    return kTileRows;
  }

  /// Of each thread of a product of that depth: the sums of some tiles, and rows that do not lie as they are read. See
  /// kernels/linear/product_tiles.cpp.
  std::int64_t tile_bytes(std::int64_t depth) const {
    constexpr std::int64_t kGroupTiles = 4;  // where AMX goes through the parts of the depth
    const std::int64_t sums = sums_bytes(kTileRows, kTileColumns) * (amx_ && depth > kAmxPart ? kGroupTiles : 1);
    return sums + rounded_up(left_bytes(kTileRows, depth), 64);
  }

  /// y += a' b for a and b of so many rows and y of `rows` x `columns`: b is packed; or, with AMX, each thread packs a
  /// block of both, see kernels/linear/product_in_place.cpp.
  std::int64_t accumulated_bytes(std::int64_t depth, std::int64_t rows, std::int64_t columns, int threads) const {
    if (!amx_) return packed_bytes(depth, columns) + threads * tile_bytes(depth);
    constexpr std::int64_t kBlockRows = 512, kStripRows = 32;
    const std::int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
    const std::int64_t block = rounded_up((rows + blocks - 1) / blocks, kStripRows);
    return threads *
           (left_bytes(block, kAmxPart) + packed_bytes(kAmxPart, kTileColumns) + sums_bytes(kStripRows, kTileColumns));
  }

 private:
  static constexpr std::int64_t kAmxPart = 1024;

  std::int64_t padded_depth(std::int64_t depth) const { return blocked_ ? rounded_up(depth, bf16_ ? 32 : 16) : depth; }

  bool bf16_, amx_, blocked_;
};

/// What one attention needs besides its tensors: see kernels/attention/attention_forward_cpu.cpp. `drops`: with
/// dropout.
inline std::int64_t attention_bytes(const Products& products, std::int64_t sequences, std::int64_t kv_heads,
                                    std::int64_t length, std::int64_t head_size, bool drops, int threads) {
  const std::int64_t tiles = (length + kTileColumns - 1) / kTileColumns;
  const std::int64_t columns = rounded_up(head_size, kColumnBlock);
  const std::int64_t keys = products.packed_bytes(head_size, tiles * kTileColumns);
  const std::int64_t values = tiles * products.packed_bytes(kTileColumns, columns);
  constexpr std::int64_t kRunningBytes = 8;  // of each query
  const std::int64_t scratch =
      products.left_bytes(kTileRows, head_size) + products.sums_bytes(kTileRows, kTileColumns) +
      products.operand_rows_bytes(kTileRows, kTileColumns) + kTileRows * (columns * kFloatBytes + kRunningBytes) +
      (drops ? kTileRows * kTileColumns * kFloatBytes : 0);
  return sequences * kv_heads * (keys + values) + threads * scratch;
}

/// The same of its backward pass: see kernels/attention/attention_backward_cpu.cpp, whose pieces these are, of one head
/// of keys and of queries for each thread.
inline std::int64_t attention_backward_bytes(const Products& products, std::int64_t length, std::int64_t head_size,
                                             int threads) {
  const std::int64_t key_tiles = (length + kTileRows - 1) / kTileRows;
  const std::int64_t query_tiles = (length + kTileColumns - 1) / kTileColumns;
  const std::int64_t columns = rounded_up(head_size, kColumnBlock);
  const std::int64_t last = (head_size - 1) / kTileRows * kTileRows;
  const std::int64_t padded_depth = last + products.row_count(head_size - last);
  const std::int64_t keys = 2 * products.left_bytes(kTileRows, head_size) +
                            products.left_bytes(padded_depth, kTileRows) + 2 * kTileRows * columns * kFloatBytes;
  const std::int64_t queries = 2 * products.packed_bytes(head_size, kTileColumns) +
                               2 * products.packed_bytes(kTileColumns, columns) + 3 * kTileColumns * kFloatBytes;
  const std::int64_t tile =
      2 * products.sums_bytes(kTileRows, kTileColumns) + 2 * products.operand_rows_bytes(kTileRows, kTileColumns) +
      products.packed_bytes(kTileRows, kTileColumns) + products.sums_bytes(padded_depth, kTileColumns) +
      kTileColumns * (head_size + 1) * kFloatBytes;
  return threads * (key_tiles * keys + query_tiles * queries + tile);
}

}  // namespace braise::model
