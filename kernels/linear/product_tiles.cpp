// SPDX-License-Identifier: Apache-2.0
#include "kernels/linear/product_tiles.h"

#include <algorithm>
#include <array>
#include <optional>

#include "kernels/core/arena.h"
#include "kernels/core/parallel.h"
#include "kernels/linear/matmul_cpu.h"
#include "kernels/linear/tile_product.h"

namespace braise::linear::cpu {
namespace {

constexpr std::int64_t kCacheLine = 64;

/// Rows that go through one column tile of b before the next: they share it in the second-level cache.
constexpr std::int64_t kGroupRows = 4 * kTileRows;

/// Rows of a step where AMX sums the whole depth at once: what is made of the sums finds them in the first-level cache.
constexpr std::int64_t kStripRows = 2 * amx::kRows;

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
  // oneDNN's primitives take rows without a gap, so only whole ones; AMX takes any part of them.
  return x.dtype() == wanted && (on_amx(type) ? x.stride(1) == 1 : x.contiguous() && depth <= tile_depth(type)) &&
         reinterpret_cast<std::uintptr_t>(x.raw()) % kCacheLine == 0 && depth * bytes_of(type) % kCacheLine == 0 &&
         x.stride(0) * bytes_of(type) % kCacheLine == 0;
}

Left rows_in_place(const core::ConstTensorView& x, Multiplicand type, std::int64_t row, std::int64_t column) {
  const std::int64_t row_bytes = x.stride(0) * bytes_of(type);
  return left_rows(static_cast<const std::byte*>(x.raw()) + row * row_bytes + column * bytes_of(type), row_bytes);
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

/// One tile product of a thread's share.
struct Step {
  std::int64_t row;
  std::int64_t rows;
  std::int64_t index;  ///< of the tile, within its group
  std::int64_t count;  ///< of the group's tiles
  std::int64_t part;
  std::int64_t column_tile;
};

/// The order in which a thread takes them: a group of rows goes through a part of a column tile together, so that they
/// share b in the second-level cache, then through the next part, then through the next column tile.
class Walk {
 public:
  struct Sizes {
    std::int64_t rows;
    std::int64_t step_rows;
    std::int64_t group_rows;
    std::int64_t column_tiles;
    std::int64_t parts;
  };

  /// Pieces [first, last) of groups times column tiles.
  Walk(std::int64_t first, std::int64_t last, const Sizes& sizes) : sizes_(sizes), piece_(first), last_(last) {
    place();
  }

  const Step& step() const { return step_; }

  /// The first step with other columns or another part of b: the next but for those of its group.
  std::optional<Step> after_group() const {
    Walk later = *this;
    later.step_.index = later.step_.count - 1;
    if (!later.next()) return std::nullopt;
    return later.step_;
  }

  /// To the next one; false if there is none.
  bool next() {
    if (++step_.index == step_.count) {
      step_.index = 0;
      if (++step_.part >= sizes_.parts) {
        step_.part = 0;
        if (++piece_ == last_) return false;
      }
    }
    place();
    return true;
  }

 private:
  void place() {
    const std::int64_t group = piece_ / sizes_.column_tiles * sizes_.group_rows;
    step_.count = (std::min(sizes_.group_rows, sizes_.rows - group) + sizes_.step_rows - 1) / sizes_.step_rows;
    step_.row = group + step_.index * sizes_.step_rows;
    step_.rows = std::min(sizes_.step_rows, sizes_.rows - step_.row);
    step_.column_tile = piece_ % sizes_.column_tiles;
  }

  Sizes sizes_;
  std::int64_t piece_;
  std::int64_t last_;
  Step step_{};
};

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

std::int64_t gated_offset(std::int64_t each) {
  return rounded_up(each, kColumnBlock);
}

std::int64_t gated_width(std::int64_t columns) {
  const std::int64_t each = columns / 2;
  const std::int64_t last = each % kGatedColumns;
  return 2 * (each - last) + (last > 0 ? gated_offset(last) + last : 0);
}

void pack_gated(void* packed, const core::ConstTensorView& b) {
  const Multiplicand type = multiplicand(b.dtype());
  const std::int64_t all = b.extent(1) / 2;
  const std::int64_t columns = gated_width(b.extent(1));
  const std::int64_t width = rounded_up(columns, kColumnBlock);
  const std::int64_t tiles = (columns + kTileColumns - 1) / kTileColumns;
  const Parts parts(type, b.extent(0));
  core::parallel_for(parts.count * tiles, [&](std::int64_t i) {
    const std::int64_t from = parts.begin(i / tiles);
    const std::int64_t depth = parts.size(i / tiles);
    const std::int64_t first = i % tiles * kGatedColumns;
    const std::int64_t each = std::min(kGatedColumns, all - first);
    const std::int64_t tile_width = std::min(kTileColumns, width - i % tiles * kTileColumns);
    std::byte* const part = static_cast<std::byte*>(packed) + packed_bytes(b.dtype(), from, columns);
    std::byte* const tile = part + packed_elements(type, depth, i % tiles * kTileColumns) * bytes_of(type);
    const core::ConstTensorView rows = b.slice(0, from, from + depth);
    pack_columns(type, tile, rows.slice(1, first, first + each), depth, tile_width, 0, each);
    pack_columns(type, columns_of_tile(type, tile, depth, gated_offset(each)),
                 rows.slice(1, all + first, all + first + each), depth, tile_width, 0, each);
  });
}

void product_tiles(core::Stream& stream, const core::ConstTensorView& x, const void* packed, std::int64_t columns,
                   std::int64_t begin, std::int64_t end, const std::function<void(const Tile&)>& consume) {
  const std::int64_t rows = x.extent(0);
  const std::int64_t depth = x.extent(1);
  if (rows == 0 || begin == end) return;
  const Multiplicand type = multiplicand(x.dtype());
  const bool in_place = usable_in_place(x, type);
  const Parts parts(type, depth);
  const std::int64_t step_rows = on_amx(type) && in_place && parts.count == 1 ? kStripRows : kTileRows;
  const std::int64_t group_rows = in_place ? kGroupRows : kTileRows;
  const std::int64_t groups = (rows + group_rows - 1) / group_rows;
  const std::int64_t column_tiles = (end - begin + kTileColumns - 1) / kTileColumns;
  const std::int64_t width = rounded_up(columns, kColumnBlock);
  prepare(type, rows, end - begin, depth);

  // While a group goes through a part, the sums of all its tiles are kept.
  const std::int64_t tile_bytes = kTileRows * sums_pitch(type, kTileColumns) * 4;
  const std::int64_t sums_bytes = (parts.count > 1 ? group_rows / kTileRows : 1) * tile_bytes;
  const std::int64_t scratch_bytes = sums_bytes + rows_bytes(type, kTileRows, depth);
  const core::Buffer scratch =
      stream.arena().allocate(core::threads() * scratch_bytes, core::Category::kWorkspace, "matmul");

  core::parallel_ranges(groups * column_tiles, [&](std::int64_t first, std::int64_t last) {
    auto* const memory = static_cast<std::byte*>(scratch.data()) + core::thread_index() * scratch_bytes;
    PackedRows copy(memory + sums_bytes, x, type);
    const auto left = [&](const Step& step) {
      const std::int64_t padded_rows = row_count(type, step.rows);
      if (in_place && padded_rows == step.rows) {
        return rows_in_place(x, type, step.row, parts.begin(step.part));
      }
      copy.hold(step.row, step.row + step.rows, padded_rows);
      return copy.part(step.part);
    };
    const auto right = [&](std::int64_t column, std::int64_t part) {
      const auto* const b = static_cast<const std::byte*>(packed) + packed_bytes(x.dtype(), parts.begin(part), width);
      return packed_tile(type, b, parts.size(part), column);
    };
    Walk walk(first, last, Walk::Sizes{rows, step_rows, group_rows, column_tiles, parts.count});
    for (bool more = true; more;) {
      const Step step = walk.step();
      const std::optional<Step> after_group = walk.after_group();
      more = walk.next();
      const std::int64_t column = begin + step.column_tile * kTileColumns;
      const std::int64_t tile_columns = std::min(kTileColumns, end - column);
      const std::int64_t padded_columns = rounded_up(tile_columns, kColumnBlock);
      const std::int64_t pitch = sums_pitch(type, padded_columns);
      const std::int64_t padded_rows = row_count(type, step.rows);
      auto* const sums = reinterpret_cast<float*>(memory + (parts.count > 1 ? step.index : 0) * tile_bytes);
      std::array<amx::Region, 2> ahead;
      if (more && in_place) {
        const Step& next = walk.step();
        const Left rows_ahead = rows_in_place(x, type, next.row, parts.begin(next.part));
        const std::int64_t bytes = parts.size(next.part) * bytes_of(type);
        ahead[0] = amx::Region{rows_ahead.data, rows_ahead.row_bytes, next.rows, bytes / kCacheLine};
      }
      if (after_group) {
        // A share of what b the group after this one takes.
        const std::int64_t from = begin + after_group->column_tile * kTileColumns;
        const std::int64_t bytes = packed_elements(type, parts.size(after_group->part),
                                                   rounded_up(std::min(kTileColumns, end - from), kColumnBlock)) *
                                   bytes_of(type);
        const std::int64_t share = rounded_up((bytes + step.count - 1) / step.count, kCacheLine);
        const std::int64_t there = std::clamp<std::int64_t>(bytes - step.index * share, 0, share);
        ahead[1] = amx::Region{static_cast<const std::byte*>(right(from, after_group->part)) + step.index * share, 0, 1,
                               there / kCacheLine};
      }
      if (depth == 0) {
        std::fill_n(sums, padded_rows * pitch, 0.0f);
      } else {
        tile_product(type, padded_rows, padded_columns, parts.size(step.part), sums, pitch, left(step),
                     right(column, step.part), accumulate_of(step.part), ahead);
      }
      if (step.part + 1 >= parts.count) {
        consume(Tile{sums, pitch, step.row, step.rows, column, tile_columns});
      }
    }
  });
}

}  // namespace braise::linear::cpu
