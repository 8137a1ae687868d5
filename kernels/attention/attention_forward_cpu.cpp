// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/attention_forward_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/core/vector_map-inl.h"

#include <array>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/attention/attention_tiles.h"
#include "kernels/core/math.h"
#include "kernels/core/parallel.h"

#ifndef BRAISE_ATTENTION_FORWARD_ONCE
#define BRAISE_ATTENTION_FORWARD_ONCE
namespace braise::attention::cpu {

/// The running softmax of one query.
struct Running {
  float maximum = -std::numeric_limits<float>::infinity();  ///< of scale * score, so far
  float sum = 0;                                            ///< of exp(scale * score - maximum)
};

/// One query's row of a tile of scores.
struct ScoreRow {
  const float* scores;  ///< one for each key of the tile
  std::int64_t begin;   ///< the keys it sees, within the tile
  std::int64_t end;
  float scale;
  const float* keep;  ///< factors of dropout, or null
};

/// The rows of a tile.
struct Rows {
  std::array<ScoreRow, lc::kTileRows> row;
  std::int64_t count;
  std::int64_t weights_pitch;
  float* outputs;        ///< their sums of weighted values so far
  std::int64_t columns;  ///< of outputs; 0 if there are none yet
};

}  // namespace braise::attention::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace braise::attention::cpu::HWY_NAMESPACE {

namespace ch = core::HWY_NAMESPACE;
namespace hn = hwy::HWY_NAMESPACE;

/// Keys are taken in blocks of as many as there are partial sums.
constexpr std::size_t kLanes = std::tuple_size_v<ch::PartialSums>;

/// Which of a row's keys [first, first + lanes) it sees.
template <class D>
HWY_INLINE hn::Mask<D> seen(D d, const ScoreRow& row, std::int64_t first) {
  const hn::RebindToSigned<D> whole;
  const auto index = hn::Iota(whole, static_cast<std::int32_t>(first));
  return hn::RebindMask(d, hn::And(hn::Gt(index, hn::Set(whole, static_cast<std::int32_t>(row.begin) - 1)),
                                   hn::Lt(index, hn::Set(whole, static_cast<std::int32_t>(row.end)))));
}

/// The blocks of keys that a row sees, from and to.
HWY_INLINE std::pair<std::int64_t, std::int64_t> blocks_of(const ScoreRow& row) {
  constexpr auto kBlock = static_cast<std::int64_t>(kLanes);
  if (row.begin >= row.end) return {0, 0};
  return {row.begin / kBlock * kBlock, (row.end + kBlock - 1) / kBlock * kBlock};
}

/// The largest score of a row, or minus infinity.
HWY_INLINE float largest(const ScoreRow& row) {
  const hn::ScalableTag<float> d;
  const auto n = static_cast<std::int64_t>(hn::Lanes(d));
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  const auto [first, last] = blocks_of(row);
  auto maximum = lowest;
  for (std::int64_t i = first; i < last; i += n) {
    const auto scores = hn::LoadU(d, row.scores + i);
    const bool inside = i >= row.begin && i + n <= row.end;
    maximum = hn::Max(maximum, inside ? scores : hn::IfThenElse(seen(d, row, i), scores, lowest));
  }
  return hn::GetLane(hn::MaxOfLanes(d, maximum));
}

/// weights[i] = exp(scale * score[i] - maximum) where the row sees key i, else 0; times the factors of dropout, which
/// the sum that is returned is without.
template <class T>
HWY_INLINE float weigh_row(const ScoreRow& row, float maximum, T* weights) {
  const hn::ScalableTag<float> d;
  constexpr auto kBlock = static_cast<std::int64_t>(kLanes);
  const auto n = static_cast<std::int64_t>(hn::Lanes(d));
  const auto scale = hn::Set(d, row.scale);
  const auto shift = hn::Set(d, -maximum);
  const float* const scores = row.scores;
  const float* const keep = row.keep;
  const auto [first, last] = blocks_of(row);
  ch::RunningSums sums;
  std::memset(static_cast<void*>(weights), 0, static_cast<std::size_t>(first) * sizeof(T));
  for (std::int64_t block = first; block < last; block += kBlock) {
    const bool inside = block >= row.begin && block + kBlock <= row.end;
    for (std::int64_t i = block; i < block + kBlock; i += n) {
      auto p = ch::math::exp<ch::Vector>(ch::fused_multiply_add(d, hn::LoadU(d, scores + i), scale, shift));
      if (!inside) p = hn::IfThenElseZero(seen(d, row, i), p);
      sums.add(static_cast<std::size_t>(i - block), p);
      if (keep != nullptr) p = hn::Mul(p, hn::LoadU(d, keep + i));
      ch::store_operand(p, d, weights + i);
    }
  }
  std::memset(static_cast<void*>(weights + last), 0, static_cast<std::size_t>(lc::kTileColumns - last) * sizeof(T));
  return sums.total();
}

/// Goes on with the softmax of one tile's rows: their weights, and their outputs so far in the new scale.
template <class T>
HWY_INLINE void weigh(const Rows& rows, Running* running, T* weights) {
  const hn::ScalableTag<float> d;
  const auto n = static_cast<std::int64_t>(hn::Lanes(d));
  HWY_ALIGN float corrections[lc::kTileRows] = {};
  for (std::int64_t i = 0; i < rows.count; ++i) {
    const float before = running[i].maximum;
    const float now = largest(rows.row[i]) * rows.row[i].scale;
    running[i].maximum = now > before ? now : before;
    corrections[i] = before == running[i].maximum ? 0.0f : before - running[i].maximum;
  }
  for (std::int64_t i = 0; i < rows.count; i += n) {
    hn::Store(ch::math::exp<ch::Vector>(hn::Load(d, corrections + i)), d, corrections + i);
  }
  for (std::int64_t i = 0; i < rows.count; ++i) {
    const ScoreRow& row = rows.row[i];
    if (row.begin >= row.end) {
      std::memset(static_cast<void*>(weights + i * rows.weights_pitch), 0, lc::kTileColumns * sizeof(T));
      continue;
    }
    const float sum = weigh_row(row, running[i].maximum, weights + i * rows.weights_pitch);
    running[i].sum = running[i].sum * corrections[i] + sum;
    if (corrections[i] == 1) continue;
    const auto factor = hn::Set(d, corrections[i]);
    float* const output = rows.outputs + i * rows.columns;
    for (std::int64_t k = 0; k < rows.columns; k += n)
      hn::StoreU(hn::Mul(hn::LoadU(d, output + k), factor), d, output + k);
  }
}

void weigh_fp32(const Rows& rows, Running* running, void* weights) {
  weigh(rows, running, static_cast<float*>(weights));
}
void weigh_bf16(const Rows& rows, Running* running, void* weights) {
  weigh(rows, running, static_cast<core::Bfloat16*>(weights));
}

template <class T>
HWY_INLINE void finish(T* to, const float* sums, float denominator, std::size_t count) {
  const hn::ScalableTag<float> d;
  const std::size_t n = hn::Lanes(d);
  const auto divisor = hn::Set(d, denominator);
  std::size_t i = 0;
  for (; i + n <= count; i += n) ch::store_float(hn::Div(hn::LoadU(d, sums + i), divisor), d, to + i);
  for (; i < count; ++i) to[i] = core::from_float<T>(sums[i] / denominator);
}

/// A row of o: the weighted values over the sum of the weights.
void finish_row(const core::TensorView& o, std::int64_t row, const float* sums, float denominator) {
  const auto count = static_cast<std::size_t>(o.extent(1));
  const std::int64_t offset = row * o.stride(0);
  ch::with_type(o.dtype(),
                [&](auto element) { finish(o.data<decltype(element)>() + offset, sums, denominator, count); });
}

}  // namespace braise::attention::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::attention::cpu {
namespace {

HWY_EXPORT(weigh_fp32);
HWY_EXPORT(weigh_bf16);
HWY_EXPORT(finish_row);

constexpr std::int64_t kQueries = lc::kTileRows;
constexpr std::int64_t kKeys = lc::kTileColumns;

/// The keys and values of all heads, packed as right operands: k transposed (D x T), and v in tiles of kKeys x D.
class PackedKeys {
 public:
  PackedKeys(core::Stream& stream, const Arguments& arguments, lc::Multiplicand type)
      : type_(type),
        positions_(arguments.k.extent(1)),
        groups_(arguments.k.extent(2)),
        depth_(arguments.k.extent(3)),
        tiles_((positions_ + kKeys - 1) / kKeys),
        key_bytes_(lc::rounded_up(lc::packed_elements(type, depth_, tiles_ * kKeys) * lc::bytes_of(type), 64)),
        value_bytes_(lc::rounded_up(
            lc::packed_elements(type, kKeys, lc::rounded_up(depth_, lc::kColumnBlock)) * lc::bytes_of(type), 64)) {
    const std::int64_t heads = arguments.k.extent(0) * groups_;
    memory_ =
        stream.arena().allocate(heads * (key_bytes_ + tiles_ * value_bytes_), core::Category::kWorkspace, "attention");
    core::parallel_for(heads * tiles_, [&](std::int64_t i) {
      const std::int64_t head = i / tiles_;
      const std::int64_t begin = i % tiles_ * kKeys;
      const std::int64_t end = std::min(positions_, begin + kKeys);
      const core::ConstTensorView k = head_of(arguments.k, head / groups_, head % groups_);
      const core::ConstTensorView v = head_of(arguments.v, head / groups_, head % groups_);
      std::byte* const keys = key_memory(head);
      if (end - begin < kKeys) {  // columns that no key fills
        std::memset(const_cast<void*>(lc::packed_tile(type_, keys, depth_, begin)), 0,
                    static_cast<std::size_t>(lc::packed_elements(type_, depth_, kKeys) * lc::bytes_of(type_)));
      }
      lc::pack_columns(type_, keys, k.transposed(0, 1), depth_, tiles_ * kKeys, begin, end);
      lc::pack_columns(type_, value_memory(head, i % tiles_), v.slice(0, begin, end), kKeys,
                       lc::rounded_up(depth_, lc::kColumnBlock), 0, depth_);
    });
  }

  const void* keys(std::int64_t sequence, std::int64_t group, std::int64_t begin) const {
    return lc::packed_tile(type_, key_memory(sequence * groups_ + group), depth_, begin);
  }
  const void* values(std::int64_t sequence, std::int64_t group, std::int64_t begin) const {
    return value_memory(sequence * groups_ + group, begin / kKeys);
  }

 private:
  std::byte* key_memory(std::int64_t head) const {
    return static_cast<std::byte*>(memory_.data()) + head * (key_bytes_ + tiles_ * value_bytes_);
  }
  std::byte* value_memory(std::int64_t head, std::int64_t tile) const {
    return key_memory(head) + key_bytes_ + tile * value_bytes_;
  }

  lc::Multiplicand type_;
  std::int64_t positions_;
  std::int64_t groups_;
  std::int64_t depth_;
  std::int64_t tiles_;
  std::int64_t key_bytes_;
  std::int64_t value_bytes_;
  core::Buffer memory_;
};

/// One thread's memory for a tile of queries.
struct Scratch {
  Scratch(std::byte* memory, lc::Multiplicand type, std::int64_t depth, bool drops) : pieces(memory) {
    queries = pieces.bytes_of(type, lc::left_elements(type, kQueries, depth));
    scores = pieces.take<float>(kQueries * lc::sums_pitch(type, kKeys));
    weights = pieces.bytes_of(type, kQueries * lc::operand_pitch(type, kKeys));
    output = pieces.take<float>(kQueries * lc::rounded_up(depth, lc::kColumnBlock));
    running = pieces.take<Running>(kQueries);
    keep = pieces.take<float>(drops ? kQueries * kKeys : 0);
  }
  Pieces pieces;
  std::byte* queries;
  float* scores;
  std::byte* weights;
  float* output;
  Running* running;
  float* keep;
};

void one_tile(const Arguments& arguments, const PackedKeys& packed, const Scratch& scratch, lc::Multiplicand type,
              std::int64_t sequence, std::int64_t head, std::int64_t begin, std::int64_t end) {
  const std::int64_t positions = arguments.k.extent(1);
  const std::int64_t before = positions - arguments.q.extent(1);  // the position of the first query
  const std::int64_t depth = arguments.q.extent(3);
  const std::int64_t columns = lc::rounded_up(depth, lc::kColumnBlock);
  const std::int64_t group = head / (arguments.q.extent(2) / arguments.k.extent(2));
  const std::int64_t rows = lc::row_count(type, end - begin);
  const core::ConstTensorView q = head_of(arguments.q, sequence, head);
  const Keep keep(arguments.dropout, sequence, head, positions);
  lc::pack_left(type, scratch.queries, q.slice(0, begin - before, end - before), rows, depth);
  std::fill_n(scratch.running, kQueries, Running{});

  const auto weigh =
      type == lc::Multiplicand::kBfloat16 ? HWY_DYNAMIC_DISPATCH(weigh_bf16) : HWY_DYNAMIC_DISPATCH(weigh_fp32);
  const std::int64_t weights_pitch = lc::operand_pitch(type, kKeys);
  const std::int64_t row_bytes = weights_pitch * lc::bytes_of(type);
  std::memset(scratch.weights + (end - begin) * row_bytes, 0,
              static_cast<std::size_t>((rows - (end - begin)) * row_bytes));
  const std::int64_t pitch = lc::sums_pitch(type, kKeys);
  Rows tile;
  tile.count = end - begin;
  tile.weights_pitch = weights_pitch;
  tile.outputs = scratch.output;
  const std::int64_t first = first_key(arguments.mask, sequence, begin);  // later queries never see further back
  core::Accumulate accumulate = core::Accumulate::kOverwrite;
  for (std::int64_t from = first / kKeys * kKeys; from < end; from += kKeys) {
    // No key after the last query is seen; oneDNN's primitives are for whole tiles.
    const std::int64_t seen = lc::on_amx(type) ? std::min(kKeys, lc::rounded_up(end - from, lc::kColumnBlock)) : kKeys;
    lc::tile_product(type, rows, seen, depth, scratch.scores, pitch, lc::packed_left(type, scratch.queries, depth),
                     packed.keys(sequence, group, from), core::Accumulate::kOverwrite);
    tile.columns = accumulate == core::Accumulate::kAdd ? columns : 0;
    for (std::int64_t i = 0; i < tile.count; ++i) {
      const std::int64_t position = begin + i;
      ScoreRow& row = tile.row[static_cast<std::size_t>(i)];
      cap_scores(scratch.scores + i * pitch, seen, arguments.scale, arguments.mask.score_cap);
      row.scores = scratch.scores + i * pitch;
      row.begin = std::clamp<std::int64_t>(first_key(arguments.mask, sequence, position) - from, 0, kKeys);
      row.end = std::clamp<std::int64_t>(position + 1 - from, 0, kKeys);
      row.scale = arguments.scale;
      row.keep = keep ? scratch.keep + i * kKeys : nullptr;
      if (keep) std::fill_n(scratch.keep + i * kKeys, kKeys, 0.0f);  // what is not seen is multiplied by it too
      for (std::int64_t key = row.begin; keep && key < row.end; ++key) {
        scratch.keep[i * kKeys + key] = keep(position, from + key);
      }
    }
    weigh(tile, scratch.running, scratch.weights);
    lc::tile_product_of_rows(type, rows, columns, kKeys, 0, seen, scratch.output, columns,
                             lc::left_rows(scratch.weights, row_bytes), packed.values(sequence, group, from),
                             accumulate);
    accumulate = core::Accumulate::kAdd;
  }

  const core::TensorView o = head_of(arguments.o_out, sequence, head);
  float* const log_sums =
      arguments.log_sum_out ? arguments.log_sum_out.select(0, sequence).select(0, head).data<float>() : nullptr;
  for (std::int64_t i = 0; i < end - begin; ++i) {
    const Running& running = scratch.running[i];
    HWY_DYNAMIC_DISPATCH(finish_row)(o, begin - before + i, scratch.output + i * columns, running.sum);
    if (log_sums != nullptr) {
      log_sums[begin - before + i] = running.maximum + core::math::log<core::math::Scalar>(running.sum);
    }
  }
}

}  // namespace

void forward(core::Stream& stream, const Arguments& arguments) {
  const std::int64_t batch = arguments.q.extent(0);
  const std::int64_t heads = arguments.q.extent(2);
  const std::int64_t depth = arguments.q.extent(3);
  const std::int64_t positions = arguments.k.extent(1);
  const std::int64_t before = positions - arguments.q.extent(1);
  if (batch == 0 || heads == 0 || before == positions) return;
  const lc::Multiplicand type = lc::multiplicand(arguments.q.dtype());
  const std::int64_t columns = lc::rounded_up(depth, lc::kColumnBlock);
  // Tiles of queries begin at multiples of their size, wherever the first query is.
  const std::int64_t first_tile = before / kQueries;
  const std::int64_t tiles = (positions + kQueries - 1) / kQueries - first_tile;
  const auto range = [&](std::int64_t tile) {
    const std::int64_t start = (first_tile + tile) * kQueries;
    return std::pair{std::max(before, start), std::min(positions, start + kQueries)};
  };
  for (const std::int64_t tile : {std::int64_t{0}, std::min<std::int64_t>(1, tiles - 1), tiles - 1}) {
    const auto [begin, end] = range(tile);
    const std::int64_t rows = lc::row_count(type, end - begin);
    lc::prepare_tile(type, rows, kKeys, depth, core::Accumulate::kOverwrite);
    lc::prepare_tile(type, rows, columns, kKeys, core::Accumulate::kOverwrite);
    lc::prepare_tile(type, rows, columns, kKeys, core::Accumulate::kAdd);
  }

  const PackedKeys packed(stream, arguments, type);
  const bool drops = arguments.dropout.rate > 0;
  const std::int64_t scratch_bytes = Scratch(nullptr, type, depth, drops).pieces.bytes();
  const core::Buffer memory =
      stream.arena().allocate(core::threads() * scratch_bytes, core::Category::kWorkspace, "attention");
  core::parallel_for_uneven(batch * heads * tiles, [&](std::int64_t i) {
    const Scratch scratch(static_cast<std::byte*>(memory.data()) + core::thread_index() * scratch_bytes, type, depth,
                          drops);
    const std::int64_t head = i / tiles;
    const auto [begin, end] = range(tiles - 1 - i % tiles);  // the longest first
    one_tile(arguments, packed, scratch, type, head / heads, head % heads, begin, end);
  });
}

}  // namespace braise::attention::cpu
#endif
