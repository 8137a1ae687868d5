// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace braise::test {

/// A way to spread a training.
struct Layout {
  int ranks = 1;
  int zero = 0;
  std::string home = "none";  ///< of what can lie there
  std::string checkpointing = "none";
  int pipeline = 1;
  int tensor = 1;

  std::string name() const;

  /// The keys of a recipe that say so. `reduction`: numerics.reduction.
  std::vector<std::string> changes(bool fp32, const std::string& reduction) const;
};

/// A training of the matrix: on a layout from beginning to end, or killed there and gone on with on another.
struct Row {
  Layout layout;
  std::string reduction = "step";
  bool killed = false;
};

/// Every combination of ranks, ZeRO stages, offload, checkpointing, pipeline stages, order of sums, and ending.
std::vector<Row> all_rows(int tensor);

/// Whether the ranks can be dealt so, and the axes go together.
bool is_legal(const Row& row);

/// Some of the rows, in which any two values of two factors that stand together in one of `rows` do so too: taken one
/// after another, each the first of those with the most pairs that none before has.
std::vector<Row> pairwise(const std::vector<Row>& rows);

/// Pairs of values that stand together in some row.
std::size_t pairs(const std::vector<Row>& rows);

}  // namespace braise::test
