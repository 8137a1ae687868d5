// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/core/copy_cpu.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include <hwy/cache_control.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernels/core/copy_cpu.h"
#include "kernels/core/parallel.h"
#include "kernels/core/vector_float-inl.h"

HWY_BEFORE_NAMESPACE();
namespace braise::core::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace vf = core::HWY_NAMESPACE;

/// The edge of a tile of a transpose: 64 elements are whole cache lines on both sides, and two tiles fit in L1.
constexpr std::int64_t kTile = 64;

template <class To, class From>
void copy_run(To* to, const From* from, std::int64_t count) {
  if constexpr (std::is_same_v<To, From>) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(To));
  } else {
    vf::convert_float(to, from, static_cast<std::size_t>(count));
  }
}

/// copy_run for a whole row of a tile: a call of memcpy would cost more than the copy.
template <class To, class From>
HWY_INLINE void copy_tile_row(To* to, const From* from) {
  if constexpr (std::is_same_v<To, From>) {
    const hn::ScalableTag<To> d;
    constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
    for (std::int64_t i = 0; i < kTile; i += kLanes) hn::StoreU(hn::LoadU(d, from + i), d, to + i);
  } else {
    vf::convert_float(to, from, kTile);
  }
}

template <class To, class From>
To converted(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else {
    return from_float<To>(to_float(value));
  }
}

template <class To, class From>
void copy_piece(const CopyPlan& plan, To* to, const From* from, std::int64_t piece) {
  const std::int64_t begin = piece % plan.inner_pieces() * plan.inner_step;
  const std::int64_t count = std::min(plan.inner_step, plan.inner.extent - begin);
  const bool runs = plan.inner.to == 1 && plan.inner.from == 1;
  const std::int64_t first = piece / plan.inner_pieces() * plan.outer_step;
  CopyCounter counter(plan, first);
  std::int64_t iterations = 1;
  for (int i = 0; i < plan.rank; ++i) iterations *= plan.outer[static_cast<std::size_t>(i)].extent;
  iterations = std::min(plan.outer_step, iterations - first);
  for (std::int64_t i = 0; i < iterations; ++i, counter.next()) {
    To* const row = to + counter.place().to + begin * plan.inner.to;
    const From* const source = from + counter.place().from + begin * plan.inner.from;
    if (runs) {
      copy_run(row, source, count);
    } else if (plan.inner.to == 1 && plan.inner.from == 0) {
      std::fill_n(row, count, converted<To>(*source));
    } else {
      for (std::int64_t k = 0; k < count; ++k) {
        row[k * plan.inner.to] = converted<To>(source[k * plan.inner.from]);
      }
    }
  }
}

/// A vector of one 128-bit block from each of Lanes / (lanes of a block) places, `stride` elements apart.
template <class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const hn::TFromD<D>* from, std::int64_t stride) {
  if constexpr (hn::MaxLanes(D()) * sizeof(hn::TFromD<D>) == 16) {
    return hn::LoadU(d, from);
  } else {
    const hn::Half<D> half;
    constexpr auto kBlocks = static_cast<std::int64_t>(hn::MaxLanes(D()) * sizeof(hn::TFromD<D>) / 16);
    return hn::Combine(d, load_blocks(half, from + kBlocks / 2 * stride, stride), load_blocks(half, from, stride));
  }
}

/// to[c * to_stride + r] = from[r * from_stride + c] for r < Lanes, c < 4: each block of a vector transposes 4 rows.
template <class D>
HWY_INLINE void transpose_vectors(D d, std::uint32_t* to, std::int64_t to_stride, const std::uint32_t* from,
                                  std::int64_t from_stride) {
  const hn::Repartition<std::uint64_t, D> pairs;
  hn::Vec<D> rows[4];
  for (int i = 0; i < 4; ++i) rows[i] = load_blocks(d, from + i * from_stride, 4 * from_stride);
  const auto low_02 = hn::InterleaveLower(d, rows[0], rows[1]);
  const auto high_02 = hn::InterleaveUpper(d, rows[0], rows[1]);
  const auto low_24 = hn::InterleaveLower(d, rows[2], rows[3]);
  const auto high_24 = hn::InterleaveUpper(d, rows[2], rows[3]);
  const auto lower = [&](auto a, auto b) {
    return hn::BitCast(d, hn::InterleaveLower(pairs, hn::BitCast(pairs, a), hn::BitCast(pairs, b)));
  };
  const auto upper = [&](auto a, auto b) {
    return hn::BitCast(d, hn::InterleaveUpper(pairs, hn::BitCast(pairs, a), hn::BitCast(pairs, b)));
  };
  hn::StoreU(lower(low_02, low_24), d, to);
  hn::StoreU(upper(low_02, low_24), d, to + to_stride);
  hn::StoreU(lower(high_02, high_24), d, to + 2 * to_stride);
  hn::StoreU(upper(high_02, high_24), d, to + 3 * to_stride);
}

/// The same for c < 8 of 16-bit elements: three rounds of interleaving, by 1, 2 and 4 elements.
template <class D>
HWY_INLINE void transpose_vectors(D d, std::uint16_t* to, std::int64_t to_stride, const std::uint16_t* from,
                                  std::int64_t from_stride) {
  const hn::Repartition<std::uint32_t, D> pairs;
  const hn::Repartition<std::uint64_t, D> quads;
  hn::Vec<D> rows[8];
  for (int i = 0; i < 8; ++i) rows[i] = load_blocks(d, from + i * from_stride, 8 * from_stride);
  hn::Vec<decltype(pairs)> by_two[8];  // [4 g + k]: columns 2 k, 2 k + 1 ... of rows 2 g', in 32-bit pairs
  for (int i = 0; i < 4; ++i) {
    by_two[2 * i] = hn::BitCast(pairs, hn::InterleaveLower(d, rows[2 * i], rows[2 * i + 1]));
    by_two[2 * i + 1] = hn::BitCast(pairs, hn::InterleaveUpper(d, rows[2 * i], rows[2 * i + 1]));
  }
  hn::Vec<decltype(quads)> by_four[2][4];  // [rows 0-3 or 4-7][columns 2 k and 2 k + 1]
  for (int i = 0; i < 2; ++i) {
    for (int k = 0; k < 2; ++k) {
      const auto a = by_two[4 * i + k];
      const auto b = by_two[4 * i + 2 + k];
      by_four[i][2 * k] = hn::BitCast(quads, hn::InterleaveLower(pairs, a, b));
      by_four[i][2 * k + 1] = hn::BitCast(quads, hn::InterleaveUpper(pairs, a, b));
    }
  }
  for (int k = 0; k < 4; ++k) {
    const auto even = hn::InterleaveLower(quads, by_four[0][k], by_four[1][k]);
    const auto odd = hn::InterleaveUpper(quads, by_four[0][k], by_four[1][k]);
    hn::StoreU(hn::BitCast(d, even), d, to + 2 * k * to_stride);
    hn::StoreU(hn::BitCast(d, odd), d, to + (2 * k + 1) * to_stride);
  }
}

/// to[c * to_stride + r] = tile[r * kTile + c] for all r, c < kTile.
template <class T>
void transpose_tile(T* to, std::int64_t to_stride, const T* tile) {
  if constexpr (sizeof(T) == 1) {
    for (std::int64_t c = 0; c < kTile; ++c) {
      for (std::int64_t r = 0; r < kTile; ++r) to[c * to_stride + r] = tile[r * kTile + c];
    }
  } else {
    const hn::ScalableTag<std::conditional_t<sizeof(T) == 2, std::uint16_t, std::uint32_t>> d;
    using Word = hn::TFromD<decltype(d)>;
    constexpr auto kColumns = static_cast<std::int64_t>(16 / sizeof(T));
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    for (std::int64_t c = 0; c < kTile; c += kColumns) {
      for (std::int64_t r = 0; r < kTile; r += lanes) {
        transpose_vectors(d, reinterpret_cast<Word*>(to + c * to_stride + r), to_stride,
                          reinterpret_cast<const Word*>(tile + r * kTile + c), kTile);
      }
    }
  }
}

template <class To, class From>
void transpose_piece(const CopyPlan& plan, To* to, const From* from, std::int64_t piece) {
  const std::int64_t inner_begin = piece % plan.inner_pieces() * plan.inner_step;
  const std::int64_t inner_end = std::min(inner_begin + plan.inner_step, plan.inner.extent);
  piece /= plan.inner_pieces();
  const std::int64_t across_begin = piece % plan.across_pieces() * plan.across_step;
  const std::int64_t across_end = std::min(across_begin + plan.across_step, plan.across.extent);
  const CopyPlace place = CopyCounter(plan, piece / plan.across_pieces()).place();
  HWY_ALIGN To tile[kTile * kTile] = {};
  HWY_ALIGN To turned[kTile * kTile];
  const auto fetch_run = [](const auto* run) {
    for (std::int64_t i = 0; i < kTile; i += 64 / static_cast<std::int64_t>(sizeof(*run))) hwy::Prefetch(run + i);
  };
  for (std::int64_t across = across_begin; across < across_end; across += kTile) {
    const std::int64_t columns = std::min(kTile, across_end - across);
    for (std::int64_t inner = inner_begin; inner < inner_end; inner += kTile) {
      const std::int64_t rows = std::min(kTile, inner_end - inner);
      const From* const source = from + place.from + inner * plan.inner.from + across;
      To* const target = to + place.to + across * plan.across.to + inner;
      // Through a tile of its own: rows a power of two apart would push each other out of the cache. The hardware sees
      // no pattern in rows this short, so the next tile is asked for by hand.
      const bool fetch = inner + 2 * kTile <= inner_end && columns == kTile;
      for (std::int64_t r = 0; r < rows; ++r) {
        if (columns == kTile) {
          copy_tile_row(tile + r * kTile, source + r * plan.inner.from);
        } else {
          copy_run(tile + r * kTile, source + r * plan.inner.from, columns);
        }
        if (!fetch) continue;
        fetch_run(source + (r + kTile) * plan.inner.from);
        fetch_run(target + r * plan.across.to + kTile);
      }
      if (rows == kTile && columns == kTile) {
        transpose_tile(target, plan.across.to, tile);
      } else {
        transpose_tile(turned, kTile, tile);
        for (std::int64_t c = 0; c < columns; ++c) copy_run(target + c * plan.across.to, turned + c * kTile, rows);
      }
    }
  }
}

template <class To, class From>
void run_typed(const CopyPlan& plan, std::int64_t piece) {
  auto* const to = static_cast<To*>(plan.to);
  const auto* const from = static_cast<const From*>(plan.from);
  if (plan.across_step > 0) {
    transpose_piece(plan, to, from, piece);
  } else {
    copy_piece(plan, to, from, piece);
  }
}

template <class To>
void run_converting(const CopyPlan& plan, std::int64_t piece) {
  switch (plan.from_dtype) {
    case Dtype::kBfloat16:
      return run_typed<To, Bfloat16>(plan, piece);
    case Dtype::kFloat16:
      return run_typed<To, Float16>(plan, piece);
    default:
      return run_typed<To, float>(plan, piece);
  }
}

void run_piece(const CopyPlan& plan, std::int64_t piece) {
  if (plan.to_dtype == plan.from_dtype) {
    switch (bits(plan.to_dtype)) {
      case 8:
        return run_typed<std::uint8_t, std::uint8_t>(plan, piece);
      case 16:
        return run_typed<std::uint16_t, std::uint16_t>(plan, piece);
      default:
        return run_typed<std::uint32_t, std::uint32_t>(plan, piece);
    }
  }
  switch (plan.to_dtype) {
    case Dtype::kBfloat16:
      return run_converting<Bfloat16>(plan, piece);
    case Dtype::kFloat16:
      return run_converting<Float16>(plan, piece);
    default:
      return run_converting<float>(plan, piece);
  }
}

}  // namespace braise::core::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::core::cpu {
namespace {

HWY_EXPORT(run_piece);

/// Elements of a piece: enough to make the work of handing it out small.
constexpr std::int64_t kPiece = 32768;

/// Narrower transposes are not worth a tile.
constexpr std::int64_t kLeastTransposed = 8;

/// The loops over the elements of both, the destination's largest stride first, joined where both sides allow it.
/// `from_stride` gives the stride of a dimension of the source.
template <class FromStride>
CopyPlan plan_of(const TensorView& destination, const FromStride& from_stride) {
  std::array<CopyAxis, kMaxRank> axes{};
  std::size_t count = 0;
  for (int i = 0; i < destination.rank(); ++i) {
    const CopyAxis axis{destination.extent(i), destination.stride(i), from_stride(i)};
    if (axis.extent == 1) continue;
    std::size_t at = count++;
    for (; at > 0 && axes[at - 1].to < axis.to; --at) axes[at] = axes[at - 1];
    axes[at] = axis;
  }
  std::size_t last = 0;
  for (std::size_t i = 1; i < count; ++i) {
    CopyAxis& outer = axes[last];
    if (outer.to == axes[i].to * axes[i].extent && outer.from == axes[i].from * axes[i].extent) {
      outer = {outer.extent * axes[i].extent, axes[i].to, axes[i].from};
    } else {
      axes[++last] = axes[i];
    }
  }
  CopyPlan plan;
  plan.to = destination.raw();
  plan.to_dtype = destination.dtype();
  plan.inner = count > 0 ? axes[last] : CopyAxis{1, 1, 1};
  plan.outer = axes;
  plan.rank = static_cast<int>(last);
  return plan;
}

/// Takes the dimension along which the source is contiguous out of the outer loops, if both sides have one and the two
/// are not the same.
void look_for_transpose(CopyPlan& plan) {
  if (plan.inner.to != 1 || plan.inner.from == 1) return;
  const auto end = plan.outer.begin() + plan.rank;
  const auto found = std::find_if(plan.outer.begin(), end, [](const CopyAxis& axis) { return axis.from == 1; });
  if (found == end || std::min(plan.inner.extent, found->extent) < kLeastTransposed) return;
  plan.across = *found;
  std::copy(found + 1, end, found);
  --plan.rank;
  plan.across_step = 64;  // tiles one after another along the destination's rows
  plan.inner_step = 512;
}

/// Does the whole plan, piece by piece.
void run(CopyPlan& plan) {
  std::int64_t pieces = 1;
  for (int i = 0; i < plan.rank; ++i) pieces *= plan.outer[static_cast<std::size_t>(i)].extent;
  if (plan.across_step > 0) {
    pieces *= plan.across_pieces() * plan.inner_pieces();
  } else {
    plan.inner_step = std::min(plan.inner.extent, kPiece);
    plan.outer_step = kPiece / plan.inner_step;
    pieces = (pieces + plan.outer_step - 1) / plan.outer_step * plan.inner_pieces();
  }
  parallel_for(pieces, [&](std::int64_t piece) { HWY_DYNAMIC_DISPATCH(run_piece)(plan, piece); });
}

}  // namespace

void copy(const TensorView& destination, const ConstTensorView& source) {
  if (destination.dtype() == Dtype::kInt4) {
    std::memcpy(destination.raw(), source.raw(), static_cast<std::size_t>(source.bytes()));
    return;
  }
  CopyPlan plan = plan_of(destination, [&](int dimension) { return source.stride(dimension); });
  plan.from = source.raw();
  plan.from_dtype = source.dtype();
  look_for_transpose(plan);
  run(plan);
}

void fill(const TensorView& tensor, std::uint32_t pattern) {
  // A copy of one element, which every index finds. The low bytes come first.
  CopyPlan plan = plan_of(tensor, [](int) { return std::int64_t{0}; });
  plan.from = &pattern;
  plan.from_dtype = tensor.dtype();
  run(plan);
}

}  // namespace braise::core::cpu
#endif
