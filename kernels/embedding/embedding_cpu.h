// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "kernels/core/arena.h"
#include "kernels/core/tensor.h"

namespace braise::embedding::cpu {

/// Errors: core::Error naming the first element of `ids` that is not in [0, end), called `noun`.
void require_in_range(const char* operation, const char* noun, const core::ConstTensorView& ids, std::int64_t end);

/// The arguments of embedding_forward.
struct Forward {
  core::TensorView y;  ///< B T x C
  core::ConstTensorView ids;
  core::ConstTensorView token_table;
  std::int64_t first_token;  ///< of the table; others than it has are zeros
  core::ConstTensorView positions;
  core::ConstTensorView position_table;
  float scale;
};

void embedding_forward(const Forward& forward);

/// Rows to be added to the rows of a table.
struct Backward {
  core::TensorView table;    ///< V x C
  std::int64_t first_id;     ///< of the table; others than it has are left out
  core::ConstTensorView dy;  ///< B T x C
  float scale;
};

/// Occurrences of ids, sorted by id and then by row of dy: the id is the upper half of the word.
using Occurrences = std::span<const std::uint64_t>;

/// table[i,:] += scale * sum of the rows of dy whose id is first_id + i.
void add_rows_by_id(core::Arena& arena, const Backward& backward, const core::ConstTensorView& ids);

}  // namespace braise::embedding::cpu
