// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/accumulate.h"
#include "kernels/core/dtype.h"
#include "kernels/core/tensor.h"
#include "kernels/linear/amx_product.h"

/// The one owner of the order of matrix products on the CPU. Every product is cut into tiles of fixed sizes, each tile
/// computed by one thread: bf16 on the tier of AMX by amx_product.h, all else with one oneDNN primitive chosen by the
/// tile's size alone. So the number of threads, and how many rows stand beside a row, change nothing.
namespace braise::linear::cpu {

/// What operands are multiplied as; sums are fp32.
enum class Multiplicand : std::uint8_t { kFloat32, kBfloat16 };

/// bf16 operands are multiplied as such where the tier has bf16 dot products; all else as fp32. Settles the tier.
Multiplicand multiplicand(core::Dtype stored);
std::int64_t bytes_of(Multiplicand multiplicand);

/// Whether AMX multiplies, by the project's own code: oneDNN 2.6 reaches two thirds of what it does.
bool on_amx(Multiplicand multiplicand);

/// Rows of a tile: of all tiles of a product but the last, which is padded to row_count rows.
inline constexpr std::int64_t kTileRows = 128;

/// The least number of rows, of those this tier sums in one order, that holds `rows` (1 to kTileRows).
std::int64_t row_count(Multiplicand multiplicand, std::int64_t rows);

/// Columns of a tile: a multiple of kColumnBlock up to kTileColumns.
inline constexpr std::int64_t kTileColumns = 256;
inline constexpr std::int64_t kColumnBlock = 64;

/// Longest part of the inner dimension that one tile product sums: parts are added in order. (AMX goes on from part to
/// part with the sums so far, so that there it changes no bit; what 128 rows of a and 256 columns of b take of a part
/// fits in the second-level cache.)
std::int64_t tile_depth(Multiplicand multiplicand);

constexpr std::int64_t rounded_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Elements of a packed right operand of that depth (at most tile_depth) and columns (a multiple of kColumnBlock).
std::int64_t packed_elements(Multiplicand multiplicand, std::int64_t depth, std::int64_t columns);

/// Packs columns [begin, end) of b (at most `depth` x N, any strides and floating-point dtype), `begin` a multiple of
/// kTileColumns and `end` one too or N, into a packed operand of `depth` rows (those past b's are zero) and `width`
/// columns (at least N, a multiple of kColumnBlock); the rest of the last block is zero, other columns stay as they
/// are. Runs on the calling thread.
void pack_columns(Multiplicand multiplicand, void* packed, const core::ConstTensorView& b, std::int64_t depth,
                  std::int64_t width, std::int64_t begin, std::int64_t end);

/// Where the tile of columns that starts at `begin` (a multiple of kTileColumns) lies in a packed operand.
const void* packed_tile(Multiplicand multiplicand, const void* packed, std::int64_t depth, std::int64_t begin);

/// Where those of a tile's columns from `column` on (a multiple of kColumnBlock) lie: what pack_columns packs there
/// with the tile's own width is part of the tile.
std::byte* columns_of_tile(Multiplicand multiplicand, std::byte* tile, std::int64_t depth, std::int64_t column);

/// A left operand: where its rows are.
using Left = amx::Left;

/// Rows that lie `row_bytes` apart, each dense. For oneDNN they must be so without a gap; AMX reads a multiple of 32
/// elements of each, and all are best on cache lines.
Left left_rows(const void* rows, std::int64_t row_bytes);

/// Elements of a packed left operand.
std::int64_t left_elements(Multiplicand multiplicand, std::int64_t rows, std::int64_t depth);

/// Packs a (M x K, any strides and floating-point dtype) into `rows` rows of `depth`; what lies past a's rows and
/// columns is zero, but for AMX, which needs no rows that are not there. Runs on the calling thread.
void pack_left(Multiplicand multiplicand, void* packed, const core::ConstTensorView& a, std::int64_t rows,
               std::int64_t depth);

/// The rows from `row` (a multiple of 16) on of a packed left operand.
Left packed_left(Multiplicand multiplicand, const void* packed, std::int64_t depth, std::int64_t row = 0);

/// Makes ready what tile_product will need for these sizes, so that it cannot fail later, among other threads.
/// Errors: core::Error from oneDNN.
void prepare_tile(Multiplicand multiplicand, std::int64_t rows, std::int64_t columns, std::int64_t depth,
                  core::Accumulate accumulate);

/// The best pitch for a tile of so many columns: with AMX, rows should not share sets of the cache.
std::int64_t sums_pitch(Multiplicand multiplicand, std::int64_t columns);

/// The same, in elements, for rows that will be a left operand.
std::int64_t operand_pitch(Multiplicand multiplicand, std::int64_t columns);

/// c (=|+=) a b for one tile. a: rows x depth. b: packed. c: rows x columns fp32, rows `pitch` apart (oneDNN's without
/// a gap). Rows is a row_count.
/// All are best aligned to 64 bytes (tile loads that cross cache lines halve the rate). Runs on the calling thread.
/// `ahead`: what the next tile will need; with AMX it is fetched meanwhile.
void tile_product(Multiplicand multiplicand, std::int64_t rows, std::int64_t columns, std::int64_t depth, float* c,
                  std::int64_t pitch, const Left& a, const void* b, core::Accumulate accumulate,
                  std::span<const amx::Region> ahead = {});

/// The same with rows [begin, end) of b, which has `depth`, and those columns of a alone: for AMX, where they are
/// multiples of amx::kDepth; without it all rows, since oneDNN's primitives are for whole tiles. a: rows x (end -
/// begin).
void tile_product_of_rows(Multiplicand multiplicand, std::int64_t rows, std::int64_t columns, std::int64_t depth,
                          std::int64_t begin, std::int64_t end, float* c, std::int64_t pitch, const Left& a,
                          const void* b, core::Accumulate accumulate);

}  // namespace braise::linear::cpu
