// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/embedding/embedding_cpu.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <bit>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/parallel.h"
#include "kernels/core/vector_float-inl.h"
#include "kernels/embedding/embedding_cpu.h"

HWY_BEFORE_NAMESPACE();
namespace braise::embedding::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace vf = core::HWY_NAMESPACE;

/// Calls work with an element of the C++ type of the dtype.
template <class Work>
void with_type(core::Dtype dtype, const Work& work) {
  switch (dtype) {
    case core::Dtype::kBfloat16:
      return work(core::Bfloat16{});
    case core::Dtype::kFloat16:
      return work(core::Float16{});
    default:
      return work(float{});
  }
}

/// y[i] = scale * token[i] (0 without a token), plus position[i] where there is one.
template <class Y, class Token, class Position>
void embed_row(Y* y, const Token* token, const Position* position, float scale, std::size_t columns) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  const auto factor = hn::Set(d, scale);
  std::size_t i = 0;
  for (; i + lanes <= columns; i += lanes) {
    auto value = token == nullptr ? hn::Zero(d) : hn::Mul(factor, vf::load_float(d, token + i));
    if (position != nullptr) value = hn::Add(value, vf::load_float(d, position + i));
    vf::store_float(value, d, y + i);
  }
  if (i == columns) return;
  auto value = token == nullptr ? hn::Zero(d) : hn::Mul(factor, vf::load_float_part(d, token + i, columns - i));
  if (position != nullptr) value = hn::Add(value, vf::load_float_part(d, position + i, columns - i));
  vf::store_float_part(value, d, y + i, columns - i);
}

/// Element (b, t) of ids, n = b T + t.
std::int64_t id_at(const core::ConstTensorView& ids, std::int64_t n) {
  const std::int64_t length = ids.extent(1);
  return ids.data<std::int32_t>()[n / length * ids.stride(0) + n % length * ids.stride(1)];
}

/// Rows [begin, end) of y.
void embed_rows(const Forward& f, std::int64_t begin, std::int64_t end) {
  const core::TensorView& y = f.y;
  const auto columns = static_cast<std::size_t>(y.extent(1));
  with_type(y.dtype(), [&](auto y_type) {
    with_type(f.token_table.dtype(), [&](auto token_type) {
      with_type(f.position_table ? f.position_table.dtype() : core::Dtype::kFloat32, [&](auto position_type) {
        auto* const to = y.data<decltype(y_type)>();
        const auto* const tokens = f.token_table.data<decltype(token_type)>();
        const auto* const places = f.position_table ? f.position_table.data<decltype(position_type)>() : nullptr;
        for (std::int64_t n = begin; n < end; ++n) {
          const auto* const place =
              places == nullptr ? nullptr : places + id_at(f.positions, n) * f.position_table.stride(0);
          const std::int64_t row = id_at(f.ids, n) - f.first_token;
          const bool there = row >= 0 && row < f.token_table.extent(0);
          embed_row(to + n * y.stride(0), there ? tokens + row * f.token_table.stride(0) : nullptr, place, f.scale,
                    columns);
        }
      });
    });
  });
}

/// Columns summed at once: their partial sums stay in L1.
constexpr std::size_t kColumns = 128;

/// to[i] += scale * (the sum of row(k)[i] over k < count), i < columns <= kColumns.
template <class Row>
void add_sum(float* to, std::size_t count, const Row& row, float scale, std::size_t columns) {
  const hn::ScalableTag<float> d;
  constexpr std::size_t kLanes = hn::MaxLanes(d);
  hn::Vec<decltype(d)> sums[kColumns / kLanes];
  const std::size_t whole = columns / kLanes;
  const std::size_t rest = columns % kLanes;
  for (std::size_t k = 0; k < count; ++k) {
    const auto* const from = row(k);
    const auto add = [&](std::size_t v, auto value) { sums[v] = k == 0 ? value : hn::Add(sums[v], value); };
    for (std::size_t v = 0; v < whole; ++v) add(v, vf::load_float(d, from + v * kLanes));
    if (rest > 0) add(whole, vf::load_float_part(d, from + whole * kLanes, rest));
  }
  const auto factor = hn::Set(d, scale);
  for (std::size_t v = 0; v < whole; ++v) {
    float* const at = to + v * kLanes;
    hn::StoreU(hn::Add(hn::LoadU(d, at), hn::Mul(factor, sums[v])), d, at);
  }
  if (rest > 0) {
    float* const at = to + whole * kLanes;
    const auto sum = hn::Add(vf::load_float_part(d, at, rest), hn::Mul(factor, sums[whole]));
    vf::store_float_part(sum, d, at, rest);
  }
}

/// Columns [begin, end) of all the ids that `occurrences` holds whole.
void add_occurrences(const Backward& b, Occurrences occurrences, std::int64_t begin, std::int64_t end) {
  with_type(b.dy.dtype(), [&](auto type) {
    const auto* const dy = b.dy.data<decltype(type)>();
    for (std::size_t first = 0; first < occurrences.size();) {
      const std::uint64_t id = occurrences[first] >> 32;
      std::size_t last = first + 1;
      while (last < occurrences.size() && occurrences[last] >> 32 == id) ++last;
      float* const to = b.table.data<float>() + static_cast<std::int64_t>(id) * b.table.stride(0);
      for (std::int64_t c = begin; c < end; c += static_cast<std::int64_t>(kColumns)) {
        const auto row = [&](std::size_t k) {
          return dy + static_cast<std::int64_t>(occurrences[first + k] & 0xffffffffu) * b.dy.stride(0) + c;
        };
        add_sum(to + c, last - first, row, b.scale, std::min(kColumns, static_cast<std::size_t>(end - c)));
      }
      first = last;
    }
  });
}

}  // namespace braise::embedding::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::embedding::cpu {
namespace {

HWY_EXPORT(embed_rows);
HWY_EXPORT(add_occurrences);

/// Rows of y, or occurrences of ids, in a piece of work.
constexpr std::int64_t kPiece = 256;

/// Columns in a piece of an id with more occurrences than that.
constexpr std::int64_t kPieceColumns = 128;

/// Bits of an id that one pass of the sort looks at.
constexpr int kDigit = 11;

/// The occurrences of ids first to first + ids_there - 1, as numbers from 0, sorted in `words` or in `spare`.
/// Both hold ids.elements().
Occurrences sorted_occurrences(std::uint64_t* words, std::uint64_t* spare, const core::ConstTensorView& ids,
                               std::int64_t first, std::int64_t ids_there) {
  std::int64_t n = 0;
  std::int64_t count = 0;
  for (std::int64_t b = 0; b < ids.extent(0); ++b) {
    const std::int32_t* const row = ids.data<std::int32_t>() + b * ids.stride(0);
    for (std::int64_t t = 0; t < ids.extent(1); ++t, ++n) {
      const std::int64_t id = row[t * ids.stride(1)] - first;
      if (id < 0 || id >= ids_there) continue;
      words[count++] = static_cast<std::uint64_t>(id) << 32 | static_cast<std::uint64_t>(n);
    }
  }
  if (count == 0) return {};
  const int bits = std::bit_width(static_cast<std::uint64_t>(ids_there - 1));
  for (int shift = 0; shift < bits; shift += kDigit) {
    const auto digit = [&](std::uint64_t word) { return word >> (32 + shift) & ((1u << kDigit) - 1); };
    std::array<std::int64_t, (std::size_t{1} << kDigit) + 1> starts{};
    for (std::int64_t i = 0; i < count; ++i) ++starts[digit(words[i]) + 1];
    for (std::size_t i = 1; i < starts.size(); ++i) starts[i] += starts[i - 1];
    for (std::int64_t i = 0; i < count; ++i) spare[starts[digit(words[i])]++] = words[i];
    std::swap(words, spare);
  }
  return {words, static_cast<std::size_t>(count)};
}

struct Piece {
  Occurrences occurrences;
  std::int64_t begin;  // columns
  std::int64_t end;
};

/// Cuts sorted occurrences where the id changes; ids with many of them by columns as well.
std::vector<Piece> pieces_of(Occurrences sorted, std::int64_t columns) {
  std::vector<Piece> pieces;
  constexpr auto kMany = static_cast<std::size_t>(kPiece);
  std::size_t begin = 0;
  for (std::size_t first = 0; first < sorted.size();) {
    std::size_t last = first + 1;
    while (last < sorted.size() && sorted[last] >> 32 == sorted[first] >> 32) ++last;
    const bool many = last - first > kMany;
    if (many && begin < first) pieces.push_back({sorted.subspan(begin, first - begin), 0, columns});
    if (many) {
      for (std::int64_t c = 0; c < columns; c += kPieceColumns) {
        pieces.push_back({sorted.subspan(first, last - first), c, std::min(c + kPieceColumns, columns)});
      }
      begin = last;
    } else if (last - begin >= kMany || last == sorted.size()) {
      pieces.push_back({sorted.subspan(begin, last - begin), 0, columns});
      begin = last;
    }
    first = last;
  }
  return pieces;
}

}  // namespace

void require_in_range(const char* operation, const char* noun, const core::ConstTensorView& ids, std::int64_t end) {
  for (std::int64_t b = 0; b < ids.extent(0); ++b) {
    const std::int32_t* const row = ids.data<std::int32_t>() + b * ids.stride(0);
    for (std::int64_t t = 0; t < ids.extent(1); ++t) {
      const std::int32_t id = row[t * ids.stride(1)];
      if (id >= 0 && id < end) continue;
      throw core::Error(std::string(operation) + ": the " + noun + " at [" + std::to_string(b) + ", " +
                        std::to_string(t) + "] is " + std::to_string(id) + ", not in [0, " + std::to_string(end) + ")");
    }
  }
}

void embedding_forward(const Forward& forward) {
  const std::int64_t rows = forward.ids.elements();
  core::parallel_for((rows + kPiece - 1) / kPiece, [&](std::int64_t piece) {
    HWY_DYNAMIC_DISPATCH(embed_rows)(forward, piece * kPiece, std::min((piece + 1) * kPiece, rows));
  });
}

void add_rows_by_id(core::Arena& arena, const Backward& backward, const core::ConstTensorView& ids) {
  const std::int64_t count = ids.elements();
  if (count == 0) return;
  const auto size = static_cast<std::int64_t>(sizeof(std::uint64_t));
  const core::Buffer workspace = arena.allocate(2 * count * size, core::Category::kWorkspace, "embedding_backward");
  auto* const words = static_cast<std::uint64_t*>(workspace.data());
  const Occurrences sorted = sorted_occurrences(words, words + count, ids, backward.first_id, backward.table.extent(0));
  const std::vector<Piece> pieces = pieces_of(sorted, backward.table.extent(1));
  core::parallel_for_uneven(static_cast<std::int64_t>(pieces.size()), [&](std::int64_t i) {
    const Piece& piece = pieces[static_cast<std::size_t>(i)];
    HWY_DYNAMIC_DISPATCH(add_occurrences)(backward, piece.occurrences, piece.begin, piece.end);
  });
}

}  // namespace braise::embedding::cpu
#endif
