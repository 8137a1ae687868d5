// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding/embedding.h"

#include <string>

#include "kernels/core/error.h"
#include "kernels/embedding/embedding_cpu.h"

namespace braise::embedding {
namespace {

using core::ConstTensorView;
using core::Dtype;
using core::Error;
using core::Shape;
using core::TensorView;

/// What both directions ask of a table, or of its gradient. Gives its number of rows.
std::int64_t checked_rows(const char* operation, const char* argument, const ConstTensorView& table,
                          std::int64_t columns) {
  const bool fits = table && table.rank() == 2 && table.extent(1) == columns && table.rows_contiguous();
  if (!fits) {
    throw Error(std::string(operation) + ": " + argument + " is " + table.text() + ", not rows of " +
                std::to_string(columns) + " contiguous elements");
  }
  return table.extent(0);
}

/// Checks that `x` is B x T x C as the ids are B x T. Gives C.
std::int64_t checked_columns(const char* operation, const char* argument, const ConstTensorView& x,
                             const ConstTensorView& ids) {
  core::require(ids && ids.dtype() == Dtype::kInt32 && ids.rank() == 2, operation, "ids is not an int32 tensor B x T");
  const std::int64_t columns = x && x.rank() == 3 ? x.extent(2) : 0;
  core::require_float_tensor(operation, argument, x, Shape{ids.extent(0), ids.extent(1), columns});
  if (!x.rows_contiguous()) {
    throw Error(std::string(operation) + ": " + argument + " is " + x.text() + ", whose rows are not contiguous");
  }
  return columns;
}

/// The vocabulary that a table of so many rows is, or is a part of.
std::int64_t checked_vocabulary(const char* operation, const core::VocabularyPart& part, std::int64_t rows) {
  if (part.vocabulary == 0) {
    core::require(part.first == 0, operation, "a part of a vocabulary needs to know of how many tokens");
    return rows;
  }
  core::require(part.first >= 0 && part.first + rows <= part.vocabulary, operation,
                "the table goes beyond the vocabulary that it is a part of");
  return part.vocabulary;
}

}  // namespace

void embedding_forward(core::Stream& stream, const TensorView& y, const ConstTensorView& ids,
                       const ConstTensorView& token_table, const ConstTensorView& positions,
                       const ConstTensorView& position_table, float scale, const core::VocabularyPart& part) {
  constexpr const char* kName = "embedding_forward";
  const std::int64_t columns = checked_columns(kName, "y", y, ids);
  const std::int64_t tokens = checked_rows(kName, "token_table", token_table, columns);
  core::require_float_tensor(kName, "token_table", token_table, Shape{tokens, columns});
  core::require(static_cast<bool>(positions) == static_cast<bool>(position_table), kName,
                "positions and position_table go together");
  std::int64_t places = 0;
  if (position_table) {
    core::require_tensor(kName, "positions", positions, Dtype::kInt32, ids.shape());
    places = checked_rows(kName, "position_table", position_table, columns);
    core::require_float_tensor(kName, "position_table", position_table, Shape{places, columns});
  }
  core::require_cpu(stream, kName);
  cpu::require_in_range(kName, "id", ids, checked_vocabulary(kName, part, tokens));
  if (position_table) cpu::require_in_range(kName, "position", positions, places);
  cpu::embedding_forward({y.as_rows(), ids, token_table, part.first, positions, position_table, scale});
}

void embedding_backward(core::Stream& stream, const TensorView& dtoken, const TensorView& dposition,
                        const ConstTensorView& dy, const ConstTensorView& ids, const ConstTensorView& positions,
                        float scale, const core::VocabularyPart& part) {
  constexpr const char* kName = "embedding_backward";
  const std::int64_t columns = checked_columns(kName, "dy", dy, ids);
  core::require(static_cast<bool>(positions) == static_cast<bool>(dposition), kName,
                "positions and dposition go together");
  std::int64_t tokens = 0;
  std::int64_t places = 0;
  if (dtoken) {
    tokens = checked_rows(kName, "dtoken", dtoken, columns);
    core::require_tensor(kName, "dtoken", dtoken, Dtype::kFloat32, Shape{tokens, columns});
  }
  if (dposition) {
    core::require_tensor(kName, "positions", positions, Dtype::kInt32, ids.shape());
    places = checked_rows(kName, "dposition", dposition, columns);
    core::require_tensor(kName, "dposition", dposition, Dtype::kFloat32, Shape{places, columns});
  }
  core::require(ids.elements() < std::int64_t{1} << 32, kName, "ids has 2^32 elements or more");
  core::require_cpu(stream, kName);
  if (dtoken) cpu::require_in_range(kName, "id", ids, checked_vocabulary(kName, part, tokens));
  if (dposition) cpu::require_in_range(kName, "position", positions, places);
  const ConstTensorView rows = dy.as_rows();
  if (dtoken) cpu::add_rows_by_id(stream.arena(), {dtoken, part.first, rows, scale}, ids);
  if (dposition) cpu::add_rows_by_id(stream.arena(), {dposition, 0, rows, 1.0f}, positions);
}

}  // namespace braise::embedding
