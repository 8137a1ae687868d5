// SPDX-License-Identifier: Apache-2.0
#include "kernels/linear/product_in_place.h"

#include <algorithm>
#include <array>

#include "kernels/core/arena.h"
#include "kernels/core/parallel.h"
#include "kernels/linear/amx_product.h"
#include "kernels/linear/tile_product.h"

namespace braise::linear::cpu {
namespace {

constexpr Multiplicand kType = Multiplicand::kBfloat16;
constexpr std::int64_t kCacheLine = 64;

// A block of x and a tile of b of one part of the depth fit in the second-level cache, beside the tile of y that is
// summed.
constexpr std::int64_t kBlockRows = 512;
constexpr std::int64_t kColumns = kTileColumns;
constexpr std::int64_t kStripRows = 2 * amx::kRows;

/// M cut into even blocks of at most kBlockRows rows.
std::int64_t block_rows(std::int64_t rows) {
  const std::int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  return rounded_up((rows + blocks - 1) / blocks, 2 * amx::kRows);
}

/// The lines of a matrix, along its dimension of stride 1, for fetching.
amx::Region region(const core::ConstTensorView& matrix) {
  const int inner = matrix.stride(1) == 1 ? 1 : 0;
  const std::int64_t bytes = matrix.extent(inner) * (core::bits(matrix.dtype()) / 8);
  return amx::Region{matrix.raw(), matrix.stride(1 - inner) * (core::bits(matrix.dtype()) / 8),
                     matrix.extent(1 - inner), (bytes + kCacheLine - 1) / kCacheLine};
}

/// The rows of a region that a strip at `at` of `size` rows fetches.
amx::Region share(const amx::Region& whole, std::int64_t at, std::int64_t size) {
  const std::int64_t begin = whole.rows * at / size;
  const std::int64_t end = whole.rows * std::min(size, at + kStripRows) / size;
  return amx::Region{static_cast<const std::byte*>(whole.data) + begin * whole.row_bytes, whole.row_bytes, end - begin,
                     whole.lines};
}

}  // namespace

bool has_product_in_place(core::Dtype dtype) {
  return on_amx(multiplicand(dtype));
}

void product_in_place(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x,
                      const core::ConstTensorView& b, core::Accumulate accumulate) {
  const std::int64_t rows = y.extent(0);
  const std::int64_t columns = y.extent(1);
  const std::int64_t depth = x.extent(1);
  if (rows == 0 || columns == 0) return;
  const std::int64_t part_depth = tile_depth(kType);
  const std::int64_t block = block_rows(rows);
  const std::int64_t blocks = (rows + block - 1) / block;
  const std::int64_t tiles = (columns + kColumns - 1) / kColumns;
  const std::int64_t pitch = sums_pitch(kType, kColumns);
  const std::int64_t left_bytes = left_elements(kType, block, part_depth) * bytes_of(kType);
  const std::int64_t right_bytes = packed_elements(kType, part_depth, kColumns) * bytes_of(kType);
  const std::int64_t scratch_bytes = left_bytes + right_bytes + kStripRows * pitch * 4;
  const core::Buffer scratch =
      stream.arena().allocate(core::threads() * scratch_bytes, core::Category::kWorkspace, "matmul");

  core::parallel_ranges(blocks * tiles, [&](std::int64_t first, std::int64_t last) {
    std::byte* const left = static_cast<std::byte*>(scratch.data()) + core::thread_index() * scratch_bytes;
    std::byte* const right = left + left_bytes;
    auto* const sums = reinterpret_cast<float*>(right + right_bytes);
    // Block by block: all its tiles of this thread, for one part of the depth after the other.
    for (std::int64_t begin = first; begin < last;) {
      const std::int64_t end = std::min(last, (begin / tiles + 1) * tiles);
      const std::int64_t row = begin / tiles * block;
      const std::int64_t row_end = std::min(rows, row + block);
      for (std::int64_t from = 0; from < depth; from += part_depth) {
        const std::int64_t part = std::min(part_depth, depth - from);
        const auto columns_of = [&](std::int64_t piece) {
          const std::int64_t column = piece % tiles * kColumns;
          return b.slice(0, from, from + part).slice(1, column, std::min(columns, column + kColumns));
        };
        pack_left(kType, left, x.slice(0, row, row_end).slice(1, from, from + part), row_end - row, part);
        const bool adds = from > 0 || accumulate == core::Accumulate::kAdd;
        for (std::int64_t piece = begin; piece < end; ++piece) {
          const core::ConstTensorView tile = columns_of(piece);
          const std::int64_t column = piece % tiles * kColumns;
          const std::int64_t count = tile.extent(1);
          const std::int64_t padded = rounded_up(count, kColumnBlock);
          pack_columns(kType, right, tile, part, padded, 0, count);
          const amx::Region next = piece + 1 < end ? region(columns_of(piece + 1)) : amx::Region{};
          for (std::int64_t i = row; i < row_end; i += kStripRows) {
            const std::int64_t strip = std::min(kStripRows, row_end - i);
            float* const to = y.data<float>() + i * y.stride(0) + column;
            const std::array<amx::Region, 2> ahead{
                share(next, i - row, row_end - row),
                amx::Region{to, y.stride(0) * 4, adds ? strip : 0, (count * 4 + kCacheLine - 1) / kCacheLine}};
            tile_product(kType, strip, padded, part, sums, pitch, packed_left(kType, left, part, i - row), right,
                         core::Accumulate::kOverwrite, ahead);
            amx::store_sums(to, y.stride(0), sums, pitch, strip, count, adds);
          }
        }
      }
      begin = end;
    }
  });
}

}  // namespace braise::linear::cpu
