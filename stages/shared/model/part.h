// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/core/shape.h"
#include "stages/shared/model/config.h"
#include "stages/shared/model/parameters.h"

namespace braise::model {

/// Elements [begin, end) of a dimension.
struct Extent {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
  bool operator==(const Extent&) const = default;
};

/// The part of a model that one rank has: consecutive blocks, and of each the share of one of `tensor_width` ranks. The
/// part with the first block has the embedding, that with the last one the final norm and the head.
struct Part {
  int tensor = 0;
  int tensor_width = 1;
  Extent blocks;
};

/// All of a model.
Part whole_of(const Config& config);

/// The part of the rank in place `tensor` of `tensor_width` and `stage` of `stages`: blocks are dealt as evenly as may
/// be, the earlier stages having the more, for the last has the head. `config` must go with these widths: see
/// split_problems.
Part part_of(const Config& config, int tensor, int tensor_width, int stage, int stages);

/// Why a model cannot be shared by so many ranks.
struct SplitProblem {
  std::string axis;     ///< "tensor" or "pipeline"
  std::string problem;  ///< "is 4, which does not divide the 6 heads"
  std::string remedy;   ///< "take 1, 2 or 3"
};

/// Heads and the feed-forward width must divide by the tensor width, and heads of keys and values by it or it by them
/// (then each is on several ranks, unless it is one parameter with the queries); a norm of all heads together cannot be
/// split; each stage has a block. The vocabulary is cut anywhere, without padding.
std::vector<SplitProblem> split_problems(const Config& config, int tensor_width, int stages);

/// What a rank has of a model's dimensions.
struct Shares {
  Extent vocabulary;
  Extent heads;
  Extent kv_heads;
  Extent intermediate;
  int kv_copies = 1;  ///< ranks, next to each other, that have the same heads of keys and values
};
Shares shares_of(const Config& config, const Part& part);

/// What a rank has of a logical tensor: of those rows those columns. Of one dimension there are rows alone.
struct Cut {
  core::Shape logical;
  std::vector<Extent> rows;
  std::vector<Extent> columns;

  core::Shape shape() const;  ///< of the rank's tensor: rows and columns one after another
  bool whole() const;

  /// Calls visit(first element of the rank's tensor, first element of the logical one, elements) for runs of elements
  /// that follow each other in both, in order.
  void for_each_run(const std::function<void(std::int64_t, std::int64_t, std::int64_t)>& visit) const;
};

/// A parameter of a part: a tied head without the embedding has a copy of the embedding.
struct PartSpec {
  ParameterSpec spec;
  Cut cut;
  std::int64_t offset = 0;  ///< elements before it in the rank's tensor of this role and layer
};

/// Whether, of all parts that have these elements of a parameter, this is the first.
bool is_first_with(const Config& config, const Part& part, const PartSpec& one);

/// The parameters of a part, in the order of computation.
std::vector<PartSpec> part_specs(const Config& config, const Part& part);

}  // namespace braise::model
