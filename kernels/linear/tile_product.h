// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/accumulate.h"
#include "kernels/core/dtype.h"
#include "kernels/core/tensor.h"

/// The one owner of the order of matrix products on the CPU. Every product is cut into tiles of fixed sizes, each tile
/// computed by one thread with one oneDNN primitive chosen by the tile's size alone. So the number of threads, and how
/// many rows stand beside a row, change nothing.
namespace braise::linear::cpu {

/// What operands are multiplied as; sums are fp32.
enum class Multiplicand : std::uint8_t { kFloat32, kBfloat16 };

/// bf16 operands are multiplied as such where the tier has bf16 dot products; all else as fp32. Settles the tier.
Multiplicand multiplicand(core::Dtype stored);
std::int64_t bytes_of(Multiplicand multiplicand);

/// Rows of a tile: of all tiles of a product but the last, which is padded to row_count rows.
inline constexpr std::int64_t kTileRows = 128;

/// The least number of rows, of those this tier sums in one order, that holds `rows` (1 to kTileRows).
std::int64_t row_count(std::int64_t rows);

/// Columns of a tile: a multiple of kColumnBlock up to kTileColumns.
inline constexpr std::int64_t kTileColumns = 256;
inline constexpr std::int64_t kColumnBlock = 64;

/// Longest part of the inner dimension that one primitive sums: parts are added in order.
inline constexpr std::int64_t kTileDepth = 4096;

constexpr std::int64_t rounded_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Elements of a packed right operand of that depth (at most kTileDepth) and columns (a multiple of kColumnBlock).
std::int64_t packed_elements(Multiplicand multiplicand, std::int64_t depth, std::int64_t columns);

/// Packs columns [begin, end) of b (at most `depth` x N, any strides and floating-point dtype), `begin` a multiple of
/// kTileColumns and `end` one too or N, into a packed operand of `depth` rows (those past b's are zero) and `width`
/// columns (at least N, a multiple of kColumnBlock); the rest of the last block is zero, other columns stay as they
/// are. Runs on the calling thread.
void pack_columns(Multiplicand multiplicand, void* packed, const core::ConstTensorView& b, std::int64_t depth,
                  std::int64_t width, std::int64_t begin, std::int64_t end);

/// Where the tile of columns that starts at `begin` (a multiple of kTileColumns) lies in a packed operand.
const void* packed_tile(Multiplicand multiplicand, const void* packed, std::int64_t depth, std::int64_t begin);

/// Copies a (M x K, any strides and floating-point dtype) into `rows` dense rows of `depth`; what lies past a's rows
/// and columns is zero. Runs on the calling thread.
void pack_rows(Multiplicand multiplicand, void* dense, const core::ConstTensorView& a, std::int64_t rows,
               std::int64_t depth);

/// Makes ready what tile_product will need for these sizes, so that it cannot fail later, among other threads.
/// Errors: core::Error from oneDNN.
void prepare_tile(Multiplicand multiplicand, std::int64_t rows, std::int64_t columns, std::int64_t depth,
                  core::Accumulate accumulate);

/// c (=|+=) a b for one tile. a: rows x depth, dense. b: packed. c: rows x columns fp32, dense. Rows is a row_count.
/// All are best aligned to 64 bytes (tile loads that cross cache lines halve the rate). Runs on the calling thread.
void tile_product(Multiplicand multiplicand, std::int64_t rows, std::int64_t columns, std::int64_t depth, float* c,
                  const void* a, const void* b, core::Accumulate accumulate);

}  // namespace braise::linear::cpu
