// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "kernels/core/accumulate.h"
#include "kernels/core/tensor.h"

/// Products of bf16 matrices on the tile registers of AMX, for the tier that has them. An element's bits come from its
/// row of a, its column of b and the depth alone: pairs of k are added in order, whatever is computed beside it.
namespace braise::linear::cpu::amx {

inline constexpr std::int64_t kRows = 16;   ///< of a tile register
inline constexpr std::int64_t kDepth = 32;  ///< elements of a row of one
inline constexpr std::int64_t kPanel = 32;  ///< columns of b that lie together
inline constexpr std::int64_t kTileBytes = 1024;

/// Where a left operand lies. Its depth is a multiple of kDepth.
struct Left {
  const void* data = nullptr;
  std::int64_t row_bytes = 0;    ///< from a row to the next, within kRows of them
  std::int64_t step_bytes = 0;   ///< from kDepth elements of a row to the next
  std::int64_t block_bytes = 0;  ///< from kRows rows to the next
};

/// Memory that what comes after a product will read or write: it is fetched into the second-level cache meanwhile.
struct Region {
  const void* data = nullptr;
  std::int64_t row_bytes = 0;  ///< from a row to the next
  std::int64_t rows = 0;
  std::int64_t lines = 0;  ///< of 64 bytes, in a row
};

/// c (=|+=) a b. c: rows x columns fp32, rows `pitch` apart. `columns` is a multiple of kPanel, `depth` of kDepth.
/// b: as pack_right lays it out.
void product(std::int64_t rows, std::int64_t columns, std::int64_t depth, float* c, std::int64_t pitch, const Left& a,
             const void* b, core::Accumulate accumulate, std::span<const Region> ahead = {});

/// y (=|+=) sums: rows x columns, rows so many elements apart.
void store_sums(float* y, std::int64_t y_pitch, const float* sums, std::int64_t pitch, std::int64_t rows,
                std::int64_t columns, bool add);

/// Packs columns [begin, end) of b (K x N bf16, any strides; begin a multiple of kPanel) into panels of `depth` rows, a
/// multiple of kDepth: in each panel, for each kDepth of k, two tiles of kDepth / 2 pairs of rows by 16 columns. Zeros
/// beyond K, and beyond `end` up to a multiple of kPanel.
void pack_right(void* packed, const core::ConstTensorView& b, std::int64_t depth, std::int64_t begin, std::int64_t end);

/// Packs a (M x K bf16, any strides) in tiles, block after block of kRows rows of `depth`, a multiple of kDepth. Zeros
/// beyond K; rows beyond M, up to a multiple of kRows, have no values.
void pack_left(void* packed, const core::ConstTensorView& a, std::int64_t depth);

}  // namespace braise::linear::cpu::amx
