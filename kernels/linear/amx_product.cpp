// SPDX-License-Identifier: Apache-2.0
#include "kernels/linear/amx_product.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false reports within intrinsics (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstddef>

#define BRAISE_AMX __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-bf16")))
#define BRAISE_AMX_INLINE inline __attribute__((always_inline)) BRAISE_AMX

namespace braise::linear::cpu::amx {
namespace {

/// What ldtilecfg reads: the shapes of the eight tile registers.
struct alignas(64) Shapes {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::array<std::uint8_t, 14> reserved{};
  std::array<std::uint16_t, 16> row_bytes{};
  std::array<std::uint8_t, 16> rows{};
};
static_assert(sizeof(Shapes) == 64);

/// Registers 0 to 3 are 2 x 2 tiles of c, 4 and 5 the two of a, 6 and 7 the two of b; `first` and `second`: the rows
/// of the upper and the lower tiles.
constexpr Shapes shapes(std::int64_t first, std::int64_t second) {
  Shapes s;
  constexpr std::array<bool, 8> kLower{false, false, true, true, false, true, false, false};
  for (std::size_t i = 0; i < kLower.size(); ++i) {
    s.row_bytes[i] = 64;
    s.rows[i] = static_cast<std::uint8_t>(i >= 6 ? kRows : kLower[i] ? second : first);
  }
  return s;
}

/// For each number of rows in a block of 32, from 1.
constexpr std::array<Shapes, 32> kShapes = [] {
  std::array<Shapes, 32> all;
  for (std::int64_t rows = 1; rows <= 32; ++rows) {
    // A register cannot have no rows; a lower tile that is not used has one.
    all[static_cast<std::size_t>(rows - 1)] = shapes(std::min(rows, kRows), std::max<std::int64_t>(rows - kRows, 1));
  }
  return all;
}();

// The intrinsics of tiles do not tell the compiler that they read memory: it must not keep stores back.
BRAISE_AMX_INLINE void memory_barrier() {
  __asm__ volatile("" ::: "memory");
}

BRAISE_AMX_INLINE void configure(std::int64_t rows) {
  __asm__ volatile("ldtilecfg %0" ::"m"(kShapes[static_cast<std::size_t>(rows - 1)]) : "memory");
}

/// Fetches what lies ahead, a line at each step of a product: more would keep b's lines waiting, which need the same
/// few buffers.
class Fetcher {
 public:
  explicit Fetcher(std::span<const Region> ahead) : ahead_(ahead) { begin_row(); }

  BRAISE_AMX_INLINE void step() {
    if (ahead_.empty()) return;
    _mm_prefetch(line_, _MM_HINT_T1);
    line_ += kLine;
    if (--left_ == 0) next_row();
  }

 private:
  static constexpr std::int64_t kLine = 64;

  void next_row() {
    if (++row_ == ahead_.front().rows) {
      row_ = 0;
      ahead_ = ahead_.subspan(1);
    }
    begin_row();
  }
  void begin_row() {
    while (!ahead_.empty() && ahead_.front().rows * ahead_.front().lines == 0) ahead_ = ahead_.subspan(1);
    if (ahead_.empty()) return;
    line_ = static_cast<const std::byte*>(ahead_.front().data) + row_ * ahead_.front().row_bytes;
    left_ = ahead_.front().lines;
  }

  std::span<const Region> ahead_;
  std::int64_t row_ = 0;
  std::int64_t left_ = 0;
  const std::byte* line_ = nullptr;
};

/// A block of 2 x 2 tiles of c (of 1 x 2 where kLower is not set). b is read past the first-level cache's order of
/// replacement, so that a's rows stay there from panel to panel.
template <bool kLower, bool kAdd>
BRAISE_AMX_INLINE void block(float* c, std::int64_t c_bytes, const Left& a, const std::byte* upper, const std::byte* b,
                             std::int64_t steps, Fetcher& fetcher) {
  float* const c_lower = c + kRows * (c_bytes / 4);
  if constexpr (kAdd) {
    _tile_loadd(0, c, c_bytes);
    _tile_loadd(1, c + 16, c_bytes);
    if constexpr (kLower) {
      _tile_loadd(2, c_lower, c_bytes);
      _tile_loadd(3, c_lower + 16, c_bytes);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kLower) {
      _tile_zero(2);
      _tile_zero(3);
    }
  }
  const std::byte* lower = upper + a.block_bytes;
  for (std::int64_t step = 0; step < steps; ++step) {
    _tile_stream_loadd(6, b, 64);
    _tile_loadd(4, upper, a.row_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_stream_loadd(7, b + kTileBytes, 64);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kLower) {
      _tile_loadd(5, lower, a.row_bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      lower += a.step_bytes;
    }
    fetcher.step();
    upper += a.step_bytes;
    b += 2 * kTileBytes;
  }
  _tile_stored(0, c, c_bytes);
  _tile_stored(1, c + 16, c_bytes);
  if constexpr (kLower) {
    _tile_stored(2, c_lower, c_bytes);
    _tile_stored(3, c_lower + 16, c_bytes);
  }
}

/// A product's tiles of c, and what they are made of.
struct Work {
  float* c;
  std::int64_t pitch;
  std::int64_t columns;
  const Left& a;
  const std::byte* b;
  std::int64_t steps;
};

/// Rows [row, row + 32) of the product; of its last, what there is.
template <bool kLower, bool kAdd>
BRAISE_AMX void rows_of_panels(const Work& work, std::int64_t row, Fetcher& fetcher) {
  const std::byte* const rows = static_cast<const std::byte*>(work.a.data) + row / kRows * work.a.block_bytes;
  const std::byte* b = work.b;
  for (std::int64_t column = 0; column < work.columns; column += kPanel) {
    block<kLower, kAdd>(work.c + row * work.pitch + column, work.pitch * 4, work.a, rows, b, work.steps, fetcher);
    b += work.steps * 2 * kTileBytes;
  }
}

template <bool kAdd>
BRAISE_AMX void all_rows(const Work& work, std::int64_t rows, Fetcher& fetcher) {
  constexpr std::int64_t kBlock = 2 * kRows;
  const std::int64_t whole = rows / kBlock * kBlock;
  memory_barrier();
  if (whole > 0) configure(kBlock);
  for (std::int64_t row = 0; row < whole; row += kBlock) rows_of_panels<true, kAdd>(work, row, fetcher);
  if (whole < rows) {
    configure(rows - whole);
    if (rows - whole > kRows) {
      rows_of_panels<true, kAdd>(work, whole, fetcher);
    } else {
      rows_of_panels<false, kAdd>(work, whole, fetcher);
    }
  }
  _tile_release();
  memory_barrier();
}

/// Element (i, j) of a matrix of 16-bit words.
struct Words {
  explicit Words(const core::ConstTensorView& matrix)
      : data(static_cast<const std::uint16_t*>(matrix.raw())),
        row_stride(matrix.stride(0)),
        column_stride(matrix.stride(1)) {}
  const std::uint16_t* at(std::int64_t row, std::int64_t column) const {
    return data + row * row_stride + column * column_stride;
  }
  const std::uint16_t* data;
  std::int64_t row_stride;
  std::int64_t column_stride;
};

/// The lowest `count` of 32 bits.
BRAISE_AMX_INLINE __mmask32 first_of_32(std::int64_t count) {
  return count >= 32 ? ~__mmask32{0} : (__mmask32{1} << std::max<std::int64_t>(count, 0)) - 1;
}

BRAISE_AMX_INLINE __mmask16 first_of_16(std::int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffff : (1u << std::max<std::int64_t>(count, 0)) - 1);
}

/// rows[i] lane j -> to[j] lane i, `to` in 16 lines of 64 bytes.
BRAISE_AMX_INLINE void store_transposed(std::byte* to, const __m512i (&rows)[16]) {
  __m512i by_one[16];
  for (int i = 0; i < 16; i += 2) {
    by_one[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    by_one[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  __m512i by_two[16];  // [4 g + k]: in each quarter q, column 4 q + k of rows 4 g to 4 g + 3
  for (int i = 0; i < 16; i += 4) {
    by_two[i] = _mm512_unpacklo_epi64(by_one[i], by_one[i + 2]);
    by_two[i + 1] = _mm512_unpackhi_epi64(by_one[i], by_one[i + 2]);
    by_two[i + 2] = _mm512_unpacklo_epi64(by_one[i + 1], by_one[i + 3]);
    by_two[i + 3] = _mm512_unpackhi_epi64(by_one[i + 1], by_one[i + 3]);
  }
  for (int k = 0; k < 4; ++k) {
    const __m512i low = _mm512_shuffle_i32x4(by_two[k], by_two[4 + k], 0x88);        // columns k, 8 + k
    const __m512i high = _mm512_shuffle_i32x4(by_two[k], by_two[4 + k], 0xdd);       // columns 4 + k, 12 + k
    const __m512i low2 = _mm512_shuffle_i32x4(by_two[8 + k], by_two[12 + k], 0x88);  // of the other rows
    const __m512i high2 = _mm512_shuffle_i32x4(by_two[8 + k], by_two[12 + k], 0xdd);
    _mm512_store_si512(to + k * 64, _mm512_shuffle_i32x4(low, low2, 0x88));
    _mm512_store_si512(to + (8 + k) * 64, _mm512_shuffle_i32x4(low, low2, 0xdd));
    _mm512_store_si512(to + (4 + k) * 64, _mm512_shuffle_i32x4(high, high2, 0x88));
    _mm512_store_si512(to + (12 + k) * 64, _mm512_shuffle_i32x4(high, high2, 0xdd));
  }
}

/// A tile whose line i holds elements [k, k + 32) of line i of the source, 16 lines `stride` apart of which `lines` are
/// there, and zeros from `depth` on: a tile of a from its rows. Transposed by pairs, one of b from its columns.
template <bool kTransposed>
BRAISE_AMX_INLINE void tile_of_lines(std::byte* to, const std::uint16_t* from, std::int64_t stride, std::int64_t lines,
                                     std::int64_t depth) {
  const __mmask32 there = first_of_32(depth);
  if constexpr (kTransposed) {
    __m512i rows[16];
    for (std::int64_t i = 0; i < 16; ++i) {
      rows[i] = i < lines ? _mm512_maskz_loadu_epi16(there, from + i * stride) : _mm512_setzero_si512();
    }
    store_transposed(to, rows);
  } else {
    for (std::int64_t i = 0; i < lines; ++i) {
      _mm512_store_si512(to + i * 64, _mm512_maskz_loadu_epi16(there, from + i * stride));
    }
  }
}

/// A tile of which line p holds, for 16 columns, the pairs of lines 2 p and 2 p + 1 of the source (each `stride` from
/// the next, zeros from `depth` on): a tile of b from its rows. Transposed, one of a from its columns.
template <bool kTransposed>
BRAISE_AMX_INLINE void tile_of_pairs(std::byte* to, const std::uint16_t* from, std::int64_t stride, std::int64_t width,
                                     std::int64_t depth) {
  const __mmask16 there = first_of_16(width);
  __m512i rows[16];
  for (std::int64_t p = 0; p < 16; ++p) {
    const std::uint16_t* const first = from + 2 * p * stride;
    const __mmask16 in_first = 2 * p < depth ? there : __mmask16{0};
    const __mmask16 in_second = 2 * p + 1 < depth ? there : __mmask16{0};
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(in_first, first));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(in_second, first + stride));
    rows[p] = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
  }
  if constexpr (kTransposed) {
    store_transposed(to, rows);
  } else {
    for (std::int64_t p = 0; p < 16; ++p) _mm512_store_si512(to + p * 64, rows[p]);
  }
}

/// Any strides: what tile_of_lines makes of lines of a (or, transposed, of columns of b).
void tile_of_words(std::byte* to, const Words& words, std::int64_t row, std::int64_t column, std::int64_t lines,
                   std::int64_t depth) {
  auto* const out = reinterpret_cast<std::uint16_t*>(to);
  for (std::int64_t i = 0; i < lines; ++i) {
    for (std::int64_t k = 0; k < kDepth; ++k) out[i * kDepth + k] = k < depth ? *words.at(row + i, column + k) : 0;
  }
}
void tile_of_word_pairs(std::byte* to, const Words& words, std::int64_t row, std::int64_t column, std::int64_t width,
                        std::int64_t depth) {
  auto* const out = reinterpret_cast<std::uint16_t*>(to);
  for (std::int64_t k = 0; k < kDepth; ++k) {
    for (std::int64_t j = 0; j < 16; ++j) {
      out[k / 2 * 32 + 2 * j + k % 2] = k < depth && j < width ? *words.at(row + k, column + j) : 0;
    }
  }
}

BRAISE_AMX void pack_right_tile(std::byte* to, const Words& words, std::int64_t k, std::int64_t column,
                                std::int64_t width, std::int64_t depth) {
  if (words.column_stride == 1) {
    tile_of_pairs<false>(to, words.at(k, column), words.row_stride, width, depth);
  } else if (words.row_stride == 1) {
    tile_of_lines<true>(to, words.at(k, column), words.column_stride, width, depth);
  } else {
    tile_of_word_pairs(to, words, k, column, width, depth);
  }
}

BRAISE_AMX void pack_left_tile(std::byte* to, const Words& words, std::int64_t row, std::int64_t k, std::int64_t lines,
                               std::int64_t depth) {
  if (words.column_stride == 1) {
    tile_of_lines<false>(to, words.at(row, k), words.row_stride, lines, depth);
  } else if (words.row_stride == 1) {
    tile_of_pairs<true>(to, words.at(row, k), words.column_stride, lines, depth);
  } else {
    tile_of_words(to, words, row, k, lines, depth);
  }
}

}  // namespace

void product(std::int64_t rows, std::int64_t columns, std::int64_t depth, float* c, std::int64_t pitch, const Left& a,
             const void* b, core::Accumulate accumulate, std::span<const Region> ahead) {
  const Work work{c, pitch, columns, a, static_cast<const std::byte*>(b), depth / kDepth};
  Fetcher fetcher(ahead);
  if (accumulate == core::Accumulate::kAdd) {
    all_rows<true>(work, rows, fetcher);
  } else {
    all_rows<false>(work, rows, fetcher);
  }
}

BRAISE_AMX void store_sums(float* y, std::int64_t y_pitch, const float* sums, std::int64_t pitch, std::int64_t rows,
                           std::int64_t columns, bool add) {
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; j += 16) {
      const __mmask16 there = first_of_16(columns - j);
      float* const to = y + i * y_pitch + j;
      __m512 value = _mm512_load_ps(sums + i * pitch + j);
      if (add) value = _mm512_add_ps(_mm512_maskz_loadu_ps(there, to), value);
      _mm512_mask_storeu_ps(to, there, value);
    }
  }
}

void pack_right(void* packed, const core::ConstTensorView& b, std::int64_t depth, std::int64_t begin,
                std::int64_t end) {
  const Words words(b);
  const std::int64_t there = b.extent(0);
  // All columns of a step before the next step: its lines of b are then read once, and whole.
  for (std::int64_t k = 0; k < depth; k += kDepth) {
    for (std::int64_t column = begin; column < end; column += kPanel) {
      std::byte* const to = static_cast<std::byte*>(packed) + column * depth * 2 + k * kPanel * 2;
      for (std::int64_t j = 0; j < kPanel; j += 16) {
        const std::int64_t width = end - column - j;
        pack_right_tile(to + j / 16 * kTileBytes, words, k, column + (width > 0 ? j : 0), width, there - k);
      }
    }
  }
}

void pack_left(void* packed, const core::ConstTensorView& a, std::int64_t depth) {
  const Words words(a);
  for (std::int64_t k = 0; k < depth; k += kDepth) {
    for (std::int64_t row = 0; row < a.extent(0); row += kRows) {
      std::byte* const to = static_cast<std::byte*>(packed) + row * depth * 2 + k * kRows * 2;
      pack_left_tile(to, words, row, k, std::min(kRows, a.extent(0) - row), a.extent(1) - k);
    }
  }
}

}  // namespace braise::linear::cpu::amx
