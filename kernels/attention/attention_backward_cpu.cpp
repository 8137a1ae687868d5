// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/attention_backward_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/core/vector_map-inl.h"

#include <array>
#include <cstring>

#include "kernels/attention/attention_tiles.h"
#include "kernels/core/parallel.h"

#ifndef BRAISE_ATTENTION_BACKWARD_ONCE
#define BRAISE_ATTENTION_BACKWARD_ONCE
namespace braise::attention::cpu {

/// A key's row of a tile whose columns are queries.
struct KeyRow {
  const float* scores;     ///< q . k
  const float* d_weights;  ///< do . v
  const float* log_sums;   ///< of the queries
  const float* deltas;     ///< of the queries: sum over d of do o
  std::int64_t begin;      ///< the queries that see it, within the tile
  std::int64_t end;
  std::int64_t width;  ///< of the tile
  const float* keep;   ///< factors of dropout, or null
  float scale;
  float cap;  ///< of scaled scores; 0: none
};

}  // namespace braise::attention::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace braise::attention::cpu::HWY_NAMESPACE {

namespace ch = core::HWY_NAMESPACE;
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
HWY_INLINE void differentiate(const KeyRow& key, T* weights, T* d_scores) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> whole;
  const KeyRow row = key;  // what is stored here cannot change it
  const auto n = static_cast<std::int64_t>(hn::Lanes(d));
  const auto scale = hn::Set(d, row.scale);
  const std::int64_t first = row.begin < row.end ? row.begin / n * n : row.width;
  const std::int64_t last = row.begin < row.end ? (row.end + n - 1) / n * n : row.width;
  const auto clear = [&](std::int64_t from, std::int64_t to) {
    std::memset(static_cast<void*>(weights + from), 0, static_cast<std::size_t>(to - from) * sizeof(T));
    std::memset(static_cast<void*>(d_scores + from), 0, static_cast<std::size_t>(to - from) * sizeof(T));
  };
  clear(0, first);
  for (std::int64_t i = first; i < last; i += n) {
    const auto exponent = hn::Neg(hn::LoadU(d, row.log_sums + i));
    auto w = ch::math::exp<ch::Vector>(ch::fused_multiply_add(d, hn::LoadU(d, row.scores + i), scale, exponent));
    auto dw = hn::LoadU(d, row.d_weights + i);
    if (i < row.begin || i + n > row.end) {
      const auto query = hn::Iota(whole, static_cast<std::int32_t>(i));
      const auto seen = hn::And(hn::Gt(query, hn::Set(whole, static_cast<std::int32_t>(row.begin) - 1)),
                                hn::Lt(query, hn::Set(whole, static_cast<std::int32_t>(row.end))));
      w = hn::IfThenElseZero(hn::RebindMask(d, seen), w);
      dw = hn::IfThenElseZero(hn::RebindMask(d, seen), dw);
    }
    auto dropped = w;
    if (row.keep != nullptr) {
      const auto keep = hn::LoadU(d, row.keep + i);
      dropped = hn::Mul(w, keep);
      dw = hn::Mul(dw, keep);
    }
    ch::store_operand(dropped, d, weights + i);
    auto ds = hn::Mul(hn::Mul(w, hn::Sub(dw, hn::LoadU(d, row.deltas + i))), scale);
    if (row.cap > 0) {
      const auto tanh = hn::Mul(hn::LoadU(d, row.scores + i), hn::Set(d, row.scale / row.cap));
      ds = hn::Mul(ds, ch::fused_multiply_add(d, hn::Neg(tanh), tanh, hn::Set(d, 1.0f)));
    }
    ch::store_operand(ds, d, d_scores + i);
  }
  clear(last, row.width);
}

void differentiate_fp32(const KeyRow& row, void* weights, void* d_scores) {
  differentiate(row, static_cast<float*>(weights), static_cast<float*>(d_scores));
}
void differentiate_bf16(const KeyRow& row, void* weights, void* d_scores) {
  differentiate(row, static_cast<core::Bfloat16*>(weights), static_cast<core::Bfloat16*>(d_scores));
}

/// The sum of a[i] b[i], by partial sums.
template <class T>
HWY_INLINE float dot(const T* a, const T* b, std::size_t count) {
  const hn::ScalableTag<float> d;
  const std::size_t n = hn::Lanes(d);
  HWY_ALIGN ch::PartialSums sums{};
  for (std::size_t i = 0; i < count; i += n) {
    const auto x = i + n <= count ? ch::load_float(d, a + i) : ch::load_float_part(d, a + i, count - i);
    const auto y = i + n <= count ? ch::load_float(d, b + i) : ch::load_float_part(d, b + i, count - i);
    float* const part = sums.data() + i % sums.size();
    hn::Store(ch::fused_multiply_add(d, x, y, hn::Load(d, part)), d, part);
  }
  return ch::sum_by_halves(sums);
}

/// deltas[i] = sum over d of d_o[i, d] o[i, d].
void row_dots(float* deltas, const core::ConstTensorView& d_o, const core::ConstTensorView& o) {
  const auto count = static_cast<std::size_t>(o.extent(1));
  const std::int64_t rows = o.extent(0);
  ch::with_type(o.dtype(), [&](auto element) {
    const auto* const first = d_o.data<decltype(element)>();
    const auto* const second = o.data<decltype(element)>();
    for (std::int64_t i = 0; i < rows; ++i) {
      deltas[i] = dot(first + i * d_o.stride(0), second + i * o.stride(0), count);
    }
  });
}

/// to[i, j] = from[i * pitch + j], converted.
void store_rows(const core::TensorView& to, const float* from, std::int64_t pitch) {
  ch::with_type(to.dtype(), [&](auto element) {
    auto* const first = to.data<decltype(element)>();
    for (std::int64_t i = 0; i < to.extent(0); ++i) {
      ch::convert_float(first + i * to.stride(0), from + i * pitch, static_cast<std::size_t>(to.extent(1)));
    }
  });
}

}  // namespace braise::attention::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::attention::cpu {
namespace {

HWY_EXPORT(differentiate_fp32);
HWY_EXPORT(differentiate_bf16);
HWY_EXPORT(row_dots);
HWY_EXPORT(store_rows);

// Scores are computed transposed, keys by queries: then weights and their gradients are left operands as they come.
constexpr std::int64_t kKeys = lc::kTileRows;
constexpr std::int64_t kQueries = lc::kTileColumns;

struct Sizes {
  Sizes(const Arguments& arguments, lc::Multiplicand t)
      : type(t),
        positions(arguments.q.extent(1)),
        depth(arguments.q.extent(3)),
        columns(lc::rounded_up(depth, lc::kColumnBlock)),
        key_tiles((positions + kKeys - 1) / kKeys),
        query_tiles((positions + kQueries - 1) / kQueries),
        pitch(lc::sums_pitch(type, kQueries)),
        operand_pitch(lc::operand_pitch(type, kQueries)) {}
  lc::Multiplicand type;
  std::int64_t positions;
  std::int64_t depth;
  std::int64_t columns;
  std::int64_t key_tiles;
  std::int64_t query_tiles;
  std::int64_t pitch;          ///< of sums of so many columns as a tile has queries
  std::int64_t operand_pitch;  ///< of left operands of so many

  std::int64_t element_bytes() const { return lc::bytes_of(type); }
  /// Rows of the tiles that D as rows is cut into: all kTileRows but the last.
  std::int64_t depth_rows(std::int64_t begin) const {
    return lc::row_count(type, std::min(lc::kTileRows, depth - begin));
  }
  std::int64_t padded_depth() const {
    const std::int64_t last = (depth - 1) / lc::kTileRows * lc::kTileRows;
    return last + depth_rows(last);
  }
  std::int64_t left_of_keys() const { return lc::left_elements(type, kKeys, depth); }             // keys x D
  std::int64_t left_of_depth() const { return lc::left_elements(type, padded_depth(), kKeys); }   // D x keys
  std::int64_t right_of_depth() const { return lc::packed_elements(type, depth, kQueries); }      // D x queries
  std::int64_t right_of_queries() const { return lc::packed_elements(type, kQueries, columns); }  // queries x D
};

/// One thread's memory for one head of keys and the heads of queries that share it.
struct Scratch {
  Scratch(std::byte* memory, const Sizes& s) : pieces(memory) {
    keys = pieces.bytes_of(s.type, s.key_tiles * s.left_of_keys());
    values = pieces.bytes_of(s.type, s.key_tiles * s.left_of_keys());
    keys_transposed = pieces.bytes_of(s.type, s.key_tiles * s.left_of_depth());
    d_keys = pieces.take<float>(s.key_tiles * kKeys * s.columns);
    d_values = pieces.take<float>(s.key_tiles * kKeys * s.columns);
    queries_transposed = pieces.bytes_of(s.type, s.query_tiles * s.right_of_depth());
    d_outputs_transposed = pieces.bytes_of(s.type, s.query_tiles * s.right_of_depth());
    queries = pieces.bytes_of(s.type, s.query_tiles * s.right_of_queries());
    d_outputs = pieces.bytes_of(s.type, s.query_tiles * s.right_of_queries());
    log_sums = pieces.take<float>(s.query_tiles * kQueries);
    deltas = pieces.take<float>(s.query_tiles * kQueries);
    firsts = pieces.take<std::int32_t>(s.query_tiles * kQueries);
    scores = pieces.take<float>(kKeys * s.pitch);
    d_weights = pieces.take<float>(kKeys * s.pitch);
    weights = pieces.bytes_of(s.type, kKeys * s.operand_pitch);
    d_scores = pieces.bytes_of(s.type, kKeys * s.operand_pitch);
    d_scores_right = pieces.bytes_of(s.type, lc::packed_elements(s.type, kKeys, kQueries));
    d_queries = pieces.take<float>(s.padded_depth() * s.pitch);
    d_queries_rows = pieces.take<float>(kQueries * s.depth);
    keep = pieces.take<float>(kQueries);
  }
  Pieces pieces;
  std::byte* keys;                  ///< by tile: keys x D, left
  std::byte* values;                ///< the same
  std::byte* keys_transposed;       ///< by tile: D x keys, left
  float* d_keys;                    ///< by tile: keys x D
  float* d_values;                  ///< the same
  std::byte* queries_transposed;    ///< by tile: D x queries, right
  std::byte* d_outputs_transposed;  ///< the same
  std::byte* queries;               ///< by tile: queries x D, right
  std::byte* d_outputs;             ///< the same
  float* log_sums;
  float* deltas;
  std::int32_t* firsts;
  float* scores;              ///< keys x queries
  float* d_weights;           ///< the same
  std::byte* weights;         ///< the same, left
  std::byte* d_scores;        ///< the same
  std::byte* d_scores_right;  ///< the same, right
  float* d_queries;           ///< D x queries
  float* d_queries_rows;      ///< queries x D
  float* keep;
};

void pack_keys(const Arguments& arguments, const Sizes& s, const Scratch& scratch, std::int64_t sequence,
               std::int64_t group) {
  const core::ConstTensorView k = head_of(arguments.k, sequence, group);
  const core::ConstTensorView v = head_of(arguments.v, sequence, group);
  const std::int64_t tile_bytes = s.left_of_keys() * s.element_bytes();
  for (std::int64_t j = 0; j < s.key_tiles; ++j) {
    const std::int64_t begin = j * kKeys;
    const std::int64_t end = std::min(s.positions, begin + kKeys);
    lc::pack_left(s.type, scratch.keys + j * tile_bytes, k.slice(0, begin, end), kKeys, s.depth);
    lc::pack_left(s.type, scratch.values + j * tile_bytes, v.slice(0, begin, end), kKeys, s.depth);
    lc::pack_left(s.type, scratch.keys_transposed + j * s.left_of_depth() * s.element_bytes(),
                  k.slice(0, begin, end).transposed(0, 1), s.padded_depth(), kKeys);
  }
  std::fill_n(scratch.d_keys, s.key_tiles * kKeys * s.columns, 0.0f);
  std::fill_n(scratch.d_values, s.key_tiles * kKeys * s.columns, 0.0f);
}

/// Packs rows of one head as right operands, transposed and as they are.
void pack_rows_right(const Sizes& s, std::byte* transposed, std::byte* plain, const core::ConstTensorView& rows) {
  for (std::int64_t i = 0; i < s.query_tiles; ++i) {
    const core::ConstTensorView tile = rows.slice(0, i * kQueries, std::min(s.positions, (i + 1) * kQueries));
    std::byte* const crossed = transposed + i * s.right_of_depth() * s.element_bytes();
    if (tile.extent(0) < kQueries) {
      std::memset(crossed, 0, static_cast<std::size_t>(s.right_of_depth() * s.element_bytes()));
    }
    lc::pack_columns(s.type, crossed, tile.transposed(0, 1), s.depth, kQueries, 0, tile.extent(0));
    lc::pack_columns(s.type, plain + i * s.right_of_queries() * s.element_bytes(), tile, kQueries, s.columns, 0,
                     s.depth);
  }
}

void pack_queries(const Arguments& arguments, const Sizes& s, const Scratch& scratch, std::int64_t sequence,
                  std::int64_t head) {
  pack_rows_right(s, scratch.queries_transposed, scratch.queries, head_of(arguments.q, sequence, head));
  pack_rows_right(s, scratch.d_outputs_transposed, scratch.d_outputs, head_of(arguments.d_o, sequence, head));
  HWY_DYNAMIC_DISPATCH(row_dots)
  (scratch.deltas, head_of(arguments.d_o, sequence, head), head_of(arguments.o, sequence, head));
  const float* const log_sums = arguments.log_sum.select(0, sequence).select(0, head).data<float>();
  std::copy_n(log_sums, s.positions, scratch.log_sums);
  const std::int64_t padding = s.query_tiles * kQueries - s.positions;
  std::fill_n(scratch.log_sums + s.positions, padding, 0.0f);
  std::fill_n(scratch.deltas + s.positions, padding, 0.0f);
  for (std::int64_t p = 0; p < s.positions; ++p) {
    scratch.firsts[p] = static_cast<std::int32_t>(first_key(arguments.mask, sequence, p));
  }
}

/// What one tile of queries of one head gives to dk, dv, and its dq.
void one_tile(const Arguments& arguments, const Sizes& s, const Scratch& scratch, std::int64_t sequence,
              std::int64_t head, std::int64_t i) {
  const auto differentiate = s.type == lc::Multiplicand::kBfloat16 ? HWY_DYNAMIC_DISPATCH(differentiate_bf16)
                                                                   : HWY_DYNAMIC_DISPATCH(differentiate_fp32);
  const std::int64_t tile = i * kQueries;
  const std::int64_t end = std::min(s.positions, tile + kQueries);
  const Keep keep(arguments.dropout, sequence, head, s.positions);
  const std::int64_t row_bytes = s.operand_pitch * s.element_bytes();
  core::Accumulate accumulate = core::Accumulate::kOverwrite;
  for (std::int64_t j = scratch.firsts[tile] / kKeys; j * kKeys < end; ++j) {
    const std::int64_t key = j * kKeys;
    // The tile's queries before its first key do not see it; oneDNN's primitives are for whole tiles.
    const std::int64_t skipped = lc::on_amx(s.type) ? std::max<std::int64_t>(key - tile, 0) : 0;
    const std::int64_t width = kQueries - skipped;
    const std::int64_t query = tile + skipped;
    const std::int32_t* const firsts = scratch.firsts + query;
    const auto left_keys = [&](const std::byte* packed) {
      return lc::packed_left(s.type, packed + j * s.left_of_keys() * s.element_bytes(), s.depth);
    };
    const auto right_queries = [&](const std::byte* packed) {
      return lc::packed_tile(s.type, packed + i * s.right_of_depth() * s.element_bytes(), s.depth, skipped);
    };
    lc::tile_product(s.type, kKeys, width, s.depth, scratch.scores, s.pitch, left_keys(scratch.keys),
                     right_queries(scratch.queries_transposed), core::Accumulate::kOverwrite);
    lc::tile_product(s.type, kKeys, width, s.depth, scratch.d_weights, s.pitch, left_keys(scratch.values),
                     right_queries(scratch.d_outputs_transposed), core::Accumulate::kOverwrite);
    for (std::int64_t r = 0; r < kKeys; ++r) {
      cap_scores(scratch.scores + r * s.pitch, width, arguments.scale, arguments.mask.score_cap);
      KeyRow row{};
      row.scores = scratch.scores + r * s.pitch;
      row.d_weights = scratch.d_weights + r * s.pitch;
      row.log_sums = scratch.log_sums + query;
      row.deltas = scratch.deltas + query;
      // Later queries never see further back, so those that see a key stand side by side.
      row.begin = std::max<std::int64_t>(key + r - query, 0);
      row.end = std::upper_bound(firsts, firsts + (end - query), static_cast<std::int32_t>(key + r)) - firsts;
      row.width = width;
      row.scale = arguments.scale;
      row.cap = arguments.mask.score_cap;
      if (keep) {
        std::fill_n(scratch.keep, kQueries, 0.0f);  // what is not seen is multiplied by it too
        for (std::int64_t c = row.begin; c < row.end; ++c) scratch.keep[c] = keep(query + c, key + r);
        row.keep = scratch.keep;
      }
      differentiate(row, scratch.weights + r * row_bytes, scratch.d_scores + r * row_bytes);
    }
    const std::byte* const d_outputs = scratch.d_outputs + i * s.right_of_queries() * s.element_bytes();
    const std::byte* const queries = scratch.queries + i * s.right_of_queries() * s.element_bytes();
    lc::tile_product_of_rows(s.type, kKeys, s.columns, kQueries, skipped, kQueries, scratch.d_values + key * s.columns,
                             s.columns, lc::left_rows(scratch.weights, row_bytes), d_outputs, core::Accumulate::kAdd);
    lc::tile_product_of_rows(s.type, kKeys, s.columns, kQueries, skipped, kQueries, scratch.d_keys + key * s.columns,
                             s.columns, lc::left_rows(scratch.d_scores, row_bytes), queries, core::Accumulate::kAdd);
    const auto stored = s.type == lc::Multiplicand::kBfloat16 ? core::Dtype::kBfloat16 : core::Dtype::kFloat32;
    const std::array<std::int64_t, 2> strides{s.operand_pitch, 1};
    lc::pack_columns(s.type, scratch.d_scores_right,
                     core::ConstTensorView(scratch.d_scores, stored, core::Shape{kKeys, width}, strides), kKeys,
                     kQueries, 0, width);
    for (std::int64_t d = 0; d < s.depth; d += lc::kTileRows) {
      lc::tile_product(
          s.type, s.depth_rows(d), width, kKeys, scratch.d_queries + d * s.pitch + skipped, s.pitch,
          lc::packed_left(s.type, scratch.keys_transposed + j * s.left_of_depth() * s.element_bytes(), kKeys, d),
          scratch.d_scores_right, accumulate);
    }
    accumulate = core::Accumulate::kAdd;
  }
  constexpr std::int64_t kStrip = 16;  // one cache line of d_queries
  for (std::int64_t c0 = 0; c0 < end - tile; c0 += kStrip) {
    for (std::int64_t d = 0; d < s.depth; ++d) {
      for (std::int64_t c = c0; c < std::min(end - tile, c0 + kStrip); ++c) {
        scratch.d_queries_rows[c * s.depth + d] = scratch.d_queries[d * s.pitch + c];
      }
    }
  }
  HWY_DYNAMIC_DISPATCH(store_rows)
  (head_of(arguments.dq, sequence, head).slice(0, tile, end), scratch.d_queries_rows, s.depth);
}

}  // namespace

void backward(core::Stream& stream, const Arguments& arguments) {
  const std::int64_t batch = arguments.q.extent(0);
  const std::int64_t heads = arguments.q.extent(2);
  const std::int64_t groups = arguments.k.extent(2);
  if (batch == 0 || heads == 0 || arguments.q.extent(1) == 0) return;
  const Sizes s(arguments, lc::multiplicand(arguments.q.dtype()));
  lc::prepare_tile(s.type, kKeys, kQueries, s.depth, core::Accumulate::kOverwrite);
  lc::prepare_tile(s.type, kKeys, s.columns, kQueries, core::Accumulate::kAdd);
  for (std::int64_t d = 0; d < s.depth; d += lc::kTileRows) {
    lc::prepare_tile(s.type, s.depth_rows(d), kQueries, kKeys, core::Accumulate::kOverwrite);
    lc::prepare_tile(s.type, s.depth_rows(d), kQueries, kKeys, core::Accumulate::kAdd);
  }
  const std::int64_t scratch_bytes = Scratch(nullptr, s).pieces.bytes();
  const std::int64_t units = batch * groups;
  const core::Buffer memory =
      stream.arena().allocate(core::threads() * scratch_bytes, core::Category::kWorkspace, "attention");
  core::parallel_ranges(units, [&](std::int64_t first, std::int64_t last) {
    const Scratch scratch(static_cast<std::byte*>(memory.data()) + core::thread_index() * scratch_bytes, s);
    for (std::int64_t unit = first; unit < last; ++unit) {
      const std::int64_t sequence = unit / groups;
      const std::int64_t group = unit % groups;
      pack_keys(arguments, s, scratch, sequence, group);
      for (std::int64_t head = group * (heads / groups); head < (group + 1) * (heads / groups); ++head) {
        pack_queries(arguments, s, scratch, sequence, head);
        for (std::int64_t i = 0; i < s.query_tiles; ++i) one_tile(arguments, s, scratch, sequence, head, i);
      }
      for (const auto& [to, from] :
           {std::pair{&arguments.dk, scratch.d_keys}, std::pair{&arguments.dv, scratch.d_values}}) {
        HWY_DYNAMIC_DISPATCH(store_rows)(head_of(*to, sequence, group), from, s.columns);
      }
    }
  });
}

}  // namespace braise::attention::cpu
#endif
