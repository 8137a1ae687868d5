// SPDX-License-Identifier: Apache-2.0
#include "kernels/linear/product_tiles.h"

#include <algorithm>

#include "kernels/core/arena.h"
#include "kernels/core/parallel.h"
#include "kernels/linear/matmul_cpu.h"
#include "kernels/linear/tile_product.h"

namespace braise::linear::cpu {
namespace {

constexpr std::int64_t kCacheLine = 64;

/// Rows of tiles that go through one column tile of b before the next: they share it in the second-level cache.
constexpr std::int64_t kGroup = 4;

/// The inner dimension, cut into the parts that tiles sum.
struct Parts {
  Parts(Multiplicand type, std::int64_t d) : depth(d), step(tile_depth(type)), count((d + step - 1) / step) {}
  std::int64_t begin(std::int64_t part) const { return part * step; }
  std::int64_t size(std::int64_t part) const { return std::min(step, depth - begin(part)); }
  std::int64_t depth;
  std::int64_t step;
  std::int64_t count;
};

/// Whether tiles of x can be multiplied where they lie: rows of the type that is multiplied, on cache lines.
bool usable_in_place(const core::ConstTensorView& x, Multiplicand type) {
  const std::int64_t depth = x.extent(1);
  const auto wanted = type == Multiplicand::kBfloat16 ? core::Dtype::kBfloat16 : core::Dtype::kFloat32;
  return x.dtype() == wanted && depth <= tile_depth(type) && x.contiguous() &&
         reinterpret_cast<std::uintptr_t>(x.raw()) % kCacheLine == 0 && depth * bytes_of(type) % kCacheLine == 0;
}

Left rows_in_place(const core::ConstTensorView& x, Multiplicand type, std::int64_t row) {
  const std::int64_t row_bytes = x.stride(0) * bytes_of(type);
  return left_rows(static_cast<const std::byte*>(x.raw()) + row * row_bytes, row_bytes);
}

/// Bytes of rows of x as PackedRows copies them.
std::int64_t rows_bytes(Multiplicand type, std::int64_t rows, std::int64_t depth) {
  const Parts parts(type, depth);
  std::int64_t elements = 0;
  for (std::int64_t part = 0; part < parts.count; ++part) elements += left_elements(type, rows, parts.size(part));
  return rounded_up(elements * bytes_of(type), kCacheLine);
}

/// One thread's copy of rows of x, part after part of the depth.
class PackedRows {
 public:
  PackedRows(std::byte* memory, const core::ConstTensorView& x, Multiplicand type)
      : memory_(memory), x_(x), type_(type), parts_(type, x.extent(1)) {}

  /// Rows [begin, end), padded to `rows`.
  void hold(std::int64_t begin, std::int64_t end, std::int64_t rows) {
    if (begin == begin_) return;
    begin_ = begin;
    rows_ = rows;
    for (std::int64_t part = 0; part < parts_.count; ++part) {
      const std::int64_t from = parts_.begin(part);
      const std::int64_t depth = parts_.size(part);
      pack_left(type_, place(part), x_.slice(0, begin, end).slice(1, from, from + depth), rows, depth);
    }
  }

  Left part(std::int64_t index) const { return packed_left(type_, place(index), parts_.size(index)); }

 private:
  std::byte* place(std::int64_t part) const { return memory_ + rows_bytes(type_, rows_, parts_.begin(part)); }

  std::byte* memory_;
  const core::ConstTensorView& x_;
  Multiplicand type_;
  Parts parts_;
  std::int64_t begin_ = -1;
  std::int64_t rows_ = 0;
};

core::Accumulate accumulate_of(std::int64_t part) {
  return part == 0 ? core::Accumulate::kOverwrite : core::Accumulate::kAdd;
}

/// Makes ready every primitive a product needs.
void prepare(Multiplicand type, std::int64_t rows, std::int64_t columns, std::int64_t depth) {
  const Parts parts(type, depth);
  for (const std::int64_t tile_rows : {std::min(rows, kTileRows), rows % kTileRows}) {
    for (const std::int64_t tile_columns : {std::min(columns, kTileColumns), columns % kTileColumns}) {
      for (std::int64_t i = 0; i < std::min<std::int64_t>(parts.count, 3); ++i) {
        const std::int64_t part = i < 2 ? i : parts.count - 1;
        if (tile_rows == 0 || tile_columns == 0) continue;
        prepare_tile(type, row_count(type, tile_rows), rounded_up(tile_columns, kColumnBlock), parts.size(part),
                     accumulate_of(part));
      }
    }
  }
}

}  // namespace

std::int64_t packed_bytes(core::Dtype dtype, std::int64_t depth, std::int64_t columns) {
  const Multiplicand type = multiplicand(dtype);
  const std::int64_t width = rounded_up(columns, kColumnBlock);
  const Parts parts(type, depth);
  std::int64_t elements = 0;
  for (std::int64_t part = 0; part < parts.count; ++part) elements += packed_elements(type, parts.size(part), width);
  return elements * bytes_of(type);
}

void pack(void* packed, const core::ConstTensorView& b) {
  const Multiplicand type = multiplicand(b.dtype());
  const std::int64_t columns = b.extent(1);
  const std::int64_t tiles = (columns + kTileColumns - 1) / kTileColumns;
  const Parts parts(type, b.extent(0));
  core::parallel_for(parts.count * tiles, [&](std::int64_t i) {
    const std::int64_t from = parts.begin(i / tiles);
    const std::int64_t depth = parts.size(i / tiles);
    const std::int64_t begin = i % tiles * kTileColumns;
    auto* const part = static_cast<std::byte*>(packed) + packed_bytes(b.dtype(), from, columns);
    pack_columns(type, part, b.slice(0, from, from + depth), depth, rounded_up(columns, kColumnBlock), begin,
                 std::min(columns, begin + kTileColumns));
  });
}

void product_tiles(core::Stream& stream, const core::ConstTensorView& x, const void* packed, std::int64_t columns,
                   std::int64_t begin, std::int64_t end, const std::function<void(const Tile&)>& consume) {
  const std::int64_t rows = x.extent(0);
  const std::int64_t depth = x.extent(1);
  if (rows == 0 || begin == end) return;
  const Multiplicand type = multiplicand(x.dtype());
  const bool in_place = usable_in_place(x, type);
  const std::int64_t group_rows = (in_place ? kGroup : 1) * kTileRows;
  const std::int64_t groups = (rows + group_rows - 1) / group_rows;
  const std::int64_t column_tiles = (end - begin + kTileColumns - 1) / kTileColumns;
  const std::int64_t width = rounded_up(columns, kColumnBlock);
  prepare(type, rows, end - begin, depth);

  constexpr std::int64_t kSumsBytes = kTileRows * kTileColumns * 4;
  const std::int64_t scratch_bytes = kSumsBytes + rows_bytes(type, kTileRows, depth);
  const Parts parts(type, depth);
  const core::Buffer scratch =
      stream.arena().allocate(core::threads() * scratch_bytes, core::Category::kWorkspace, "matmul");

  core::parallel_ranges(groups * column_tiles, [&](std::int64_t first, std::int64_t last) {
    auto* const memory = static_cast<std::byte*>(scratch.data()) + core::thread_index() * scratch_bytes;
    auto* const sums = reinterpret_cast<float*>(memory);
    PackedRows copy(memory + kSumsBytes, x, type);
    for (std::int64_t i = first; i < last; ++i) {
      const std::int64_t column = begin + i % column_tiles * kTileColumns;
      const std::int64_t tile_columns = std::min(kTileColumns, end - column);
      const std::int64_t padded_columns = rounded_up(tile_columns, kColumnBlock);
      const std::int64_t group = i / column_tiles * group_rows;
      for (std::int64_t row = group; row < std::min(rows, group + group_rows); row += kTileRows) {
        const std::int64_t tile_rows = std::min(kTileRows, rows - row);
        const std::int64_t padded_rows = row_count(type, tile_rows);
        const bool direct = in_place && padded_rows == tile_rows;
        if (!direct) copy.hold(row, row + tile_rows, padded_rows);
        for (std::int64_t part = 0; part < parts.count; ++part) {
          const Left a = direct ? rows_in_place(x, type, row) : copy.part(part);
          const auto* const b =
              static_cast<const std::byte*>(packed) + packed_bytes(x.dtype(), parts.begin(part), width);
          tile_product(type, padded_rows, padded_columns, parts.size(part), sums, a,
                       packed_tile(type, b, parts.size(part), column), accumulate_of(part));
        }
        if (depth == 0) std::fill_n(sums, padded_rows * padded_columns, 0.0f);
        consume(Tile{sums, padded_columns, row, tile_rows, column, tile_columns});
      }
    }
  });
}

}  // namespace braise::linear::cpu
